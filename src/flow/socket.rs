//! How a connection is set up, at either end.
//!
//! Answers and requests are written whole, so nothing is gained by waiting for more. Over a loopback address there is no network whose
//! rate could be found out either: congestion control that sends at the pace it has estimated (BBR, which is the default of some systems) keeps a
//! full batch for up to 20 ms there. Elsewhere, also over another address of the same machine, it is left as the system has it.
//!
//! A server leaves what its peers do not take unwritten: the system would take megabytes for each of them, all of which are made, copied and kept for nobody.
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

/// Of what is written, so much waits in the system until it can be sent; what is on its way comes on top, as much as the way needs. It is the longest page, or
/// the answers to five full batches: who asks for no more before he reads is not waited for.
const UNSENT_BYTES: u32 = 1 << 20;

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

/// Sets up a connection that a peer has opened. Does not block.
pub fn set_up_served(stream: &impl AsFd, peer: IpAddr) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    if let Err(err) = socket2::SockRef::from(stream).set_tcp_notsent_lowat(UNSENT_BYTES) {
        tracing::debug!(%err, "the system keeps as much of what a peer does not take as it likes");
    }
    set_up(stream, peer)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::io::Write as _;
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    use super::*;

    #[test]
    fn the_system_keeps_little_of_what_a_peer_does_not_take() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let unread = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut served, peer) = listener.accept().unwrap();
        set_up_served(&served, peer.ip()).unwrap();
        served.set_nonblocking(true).unwrap();
        let on_its_way = socket2::SockRef::from(&unread).recv_buffer_size().unwrap();
        let most = UNSENT_BYTES as usize + on_its_way;
        let (mut taken, piece) = (0, vec![7; 64 << 10]);
        loop {
            match served.write(&piece) {
                Ok(bytes) => taken += bytes,
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => break,
                Err(err) => panic!("{err}"),
            }
            assert!(taken <= 2 * most, "{taken} of {most}");
        }
        assert!(taken >= UNSENT_BYTES as usize / 2, "{taken}");
    }

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
