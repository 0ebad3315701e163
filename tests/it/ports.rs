//! Free ports for servers that a test starts as another process.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

/// Ports outside the range from which the kernel takes the ports of outgoing connections (32768 to 60999 by default): such a
/// connection could otherwise take the port before the server binds it.
const FIRST: u32 = 18000;
const COUNT: u32 = 14000;
/// Holding a port on this address claims it among all tests that run on this machine, also those of another checkout. The kernel
/// releases the claim when the process ends.
const CLAIMS: Ipv4Addr = Ipv4Addr::new(127, 77, 0, 1);

/// Returns a loopback address on which nobody listens, and which no other test gets while this process lives.
pub(crate) fn free() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    for _ in 0..COUNT {
        let number = std::process::id().wrapping_mul(7919).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = u16::try_from(FIRST + number % COUNT).unwrap();
        let Ok(claim) = TcpListener::bind((CLAIMS, port)) else { continue };
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(address).is_ok() {
            // The claim lasts as long as the process.
            std::mem::forget(claim);
            return address;
        }
    }
    panic!("no free port between {FIRST} and {}", FIRST + COUNT);
}
