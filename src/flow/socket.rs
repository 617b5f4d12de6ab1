//! How a connection is set up, at either end.
//!
//! Answers and requests are written whole, so nothing is gained by waiting for more. Over a loopback address there is no network whose
//! rate could be found out either: congestion control that sends at the pace it has estimated (BBR, which is the default of some systems) keeps a
//! full batch for up to 20 ms there. Elsewhere, also over another address of the same machine, it is left as the system has it.
//!
//! # Not here
//!
//! Connecting and accepting (client, gateway), and deadlines (theirs, too).

use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;

use rustix::net::sockopt;

/// The one that Linux lets every program use unless somebody forbids it, and that does not pace by itself.
#[cfg(target_os = "linux")]
const UNPACED: &str = "reno";

/// Sets up a connection to a peer. Does not block.
pub fn set_up(stream: &impl AsFd, peer: IpAddr) -> io::Result<()> {
    sockopt::set_tcp_nodelay(stream, true)?;
    #[cfg(target_os = "linux")]
    if peer.to_canonical().is_loopback()
        && let Err(err) = sockopt::set_tcp_congestion(stream, UNPACED)
    {
        tracing::debug!(%err, "a connection over loopback keeps the system's congestion control");
    }
    Ok(())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    use super::*;

    #[test]
    fn what_goes_over_loopback_is_not_paced_and_nothing_waits_for_more() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let open = || TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let control = |stream: &TcpStream| sockopt::tcp_congestion(stream).unwrap();
        let systems = control(&open());
        let here = [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv4Addr::LOCALHOST.to_ipv6_mapped().into()];
        let elsewhere = [IpAddr::from([192, 0, 2, 1])];
        for (peer, wanted) in
            here.map(|peer| (peer, UNPACED)).into_iter().chain(elsewhere.map(|peer| (peer, &*systems)))
        {
            let stream = open();
            set_up(&stream, peer).unwrap();
            assert!(stream.nodelay().unwrap());
            assert_eq!(control(&stream), wanted, "{peer}");
        }
    }
}
