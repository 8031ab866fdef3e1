//! Which listener of a `SO_REUSEPORT` group gets a connection: that of the CPU on which it came in.
//!
//! Without it the kernel chooses by a hash of addresses and ports. A classic BPF program on the
//! group (`SO_ATTACH_REUSEPORT_CBPF`, socket(7)) answers with the index of a listener instead;
//! listeners count in the order in which they began to listen. `SO_INCOMING_CPU` on each listener
//! would say the same, but the kernel ignored it in a group from 4.6 until the end of 2022
//! (b261eda84ec1).

use std::io;
use std::os::fd::AsFd;

use nix::sys::socket::{setsockopt, sockopt::AttachReusePortCbpf};

/// Gives each connection to the listener of the CPU that takes its first packet from the network:
/// the first of `cpus` is the CPU of the first listener, and so on. A connection that comes in on
/// another CPU is placed by the hash. `listener` is any of the group; all must listen already.
///
/// # Errors
/// What the kernel says: more CPUs than a program has room for, or no such option.
pub fn steer_by_cpu(listener: &impl AsFd, cpus: &[usize]) -> io::Result<()> {
    let mut program = program_for(cpus);
    let len = u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // The kernel copies the program within the call.
    let program = libc::sock_fprog { len, filter: program.as_mut_ptr() };
    Ok(setsockopt(listener, AttachReusePortCbpf, &program)?)
}

/// `A = cpu; if A == cpus[0] return 0; if A == cpus[1] return 1; ... return NO_LISTENER`
fn program_for(cpus: &[usize]) -> Vec<libc::sock_filter> {
    let instruction =
        |code: u32, jf: u8, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf, k };
    let cpu_number = (libc::SKF_AD_OFF + libc::SKF_AD_CPU) as u32;
    let mut program = vec![instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, cpu_number)];
    for (index, cpu) in cpus.iter().enumerate() {
        let is_other = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
        program.push(instruction(is_other, 1, *cpu as u32));
        program.push(instruction(libc::BPF_RET | libc::BPF_K, 0, index as u32));
    }
    program.push(instruction(libc::BPF_RET | libc::BPF_K, 0, NO_LISTENER));
    program
}

/// No group is so large; the kernel then goes on with the hash.
const NO_LISTENER: u32 = u32::MAX;

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::os::fd::OwnedFd;

    use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
    use nix::unistd::Pid;

    use super::super::socket;
    use super::*;

    const THIS_THREAD: Pid = Pid::from_raw(0);

    fn allowed_cpus() -> Vec<usize> {
        let set = sched_getaffinity(THIS_THREAD).expect("an affinity");
        (0..CpuSet::count()).filter(|&cpu| set.is_set(cpu) == Ok(true)).collect()
    }

    /// On loopback a packet comes in on the CPU that sent it.
    fn connect_on(cpu: usize, address: SocketAddr) -> TcpStream {
        let mut set = CpuSet::new();
        set.set(cpu).expect("a CPU of this machine");
        sched_setaffinity(THIS_THREAD, &set).expect("an allowed CPU");
        TcpStream::connect(address).expect("a listener")
    }

    fn group(count: usize) -> (Vec<TcpListener>, SocketAddr) {
        let mut address = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut listeners = Vec::new();
        for _ in 0..count {
            let fd: OwnedFd = socket::listener(address).expect("a listener");
            address = socket::local_addr(&fd).expect("bound");
            listeners.push(fd.into());
        }
        (listeners, address)
    }

    /// How many connections wait at each listener.
    fn waiting(listeners: &[TcpListener]) -> Vec<usize> {
        let count = |listener: &TcpListener| std::iter::from_fn(|| listener.accept().ok()).count();
        listeners.iter().map(count).collect()
    }

    #[test]
    fn a_connection_goes_to_the_listener_of_its_cpu() {
        let cpus = allowed_cpus();
        let (listeners, address) = group(cpus.len());
        // Turned round, so that no order of CPUs is right by chance.
        let turned: Vec<usize> = cpus.iter().rev().copied().collect();
        steer_by_cpu(&listeners[0], &turned).expect("a program");
        for (index, &cpu) in turned.iter().enumerate() {
            let _connections: Vec<_> = (0..8).map(|_| connect_on(cpu, address)).collect();
            let mut expected = vec![0; cpus.len()];
            expected[index] = 8;
            assert_eq!(waiting(&listeners), expected, "from CPU {cpu}");
        }
    }

    #[test]
    fn a_connection_of_a_cpu_without_listener_is_placed_by_the_hash() {
        let (listeners, address) = group(2);
        steer_by_cpu(&listeners[1], &[100_000, 100_001]).expect("a program");
        let cpu = allowed_cpus()[0];
        let _connections: Vec<_> = (0..64).map(|_| connect_on(cpu, address)).collect();
        let counts = waiting(&listeners);
        assert_eq!(counts.iter().sum::<usize>(), 64);
        assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
    }

    #[test]
    fn a_program_has_room_for_every_shard_that_a_config_may_have() {
        let (listeners, _) = group(1);
        steer_by_cpu(&listeners[0], &Vec::from_iter(0..1024)).expect("a program");
        assert!(steer_by_cpu(&listeners[0], &Vec::from_iter(0..4096)).is_err());
    }
}
