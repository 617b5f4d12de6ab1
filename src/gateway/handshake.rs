//! The first frame of a connection.

use super::listener::GatewayContext;
use crate::flow::wall_ns;
use crate::ledger::{Code, GatewayEntry};
use crate::protocol::{BODY_BYTES_MAX, FrameHeader, Hello, ITEMS_MAX, Kind, VERSION, Welcome};

/// Decides on a hello; answers who has said it.
pub(super) fn greet(
    context: &GatewayContext,
    header: &FrameHeader,
    body: &[u8],
) -> Result<(GatewayEntry, Welcome), Code> {
    if header.kind != Kind::Hello.number() {
        return Err(Code::HandshakeExpected);
    }
    let hello = Hello::decode(body)?;
    if hello.version_min > VERSION || hello.version_max < VERSION {
        return Err(Code::VersionUnsupported);
    }
    let gateway = context.gateways.authenticate(&hello.gateway, &hello.key).ok_or(Code::AuthenticationFailed)?;
    let welcome = Welcome {
        version: VERSION,
        gateway: gateway.id.0,
        body_bytes_max: BODY_BYTES_MAX,
        items_max: ITEMS_MAX,
        requests_in_flight_max: context.limits.requests_in_flight_max,
        idle_timeout_ms: u32::try_from(context.limits.idle_timeout.as_millis()).unwrap_or(u32::MAX),
        time_ns: wall_ns(),
    };
    Ok((gateway, welcome))
}
