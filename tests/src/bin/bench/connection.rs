//! New connections to a published port: whether they take longer the more ports are published.

use crate::{
    Size,
    call::Suite,
    chain::{Chain, portmap},
    netns::NetNs,
    scenario::{Outcome, progress, thousands, turns},
    table::Table,
};
use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

/// The address of the bridge, by which the host reaches its published ports.
const HOST: [u8; 4] = [10, 30, 0, 1];
/// How often the medians are compared.
const RUNS: usize = 3;
/// Ports of one pod, in one ADD.
const PORTS_OF_A_POD: usize = 100;

/// A host with published ports, and the pod behind the last of them.
struct Published<'a> {
    chain: Chain<'a>,
    pods: Vec<NetNs>,
    port: u16,
}

/// Connections to the last of many ports against those to a single one.
pub(crate) fn to_published_ports(ours: &Suite, size: Size, own: &mut Table) -> Outcome<()> {
    progress("connections to published ports");
    let hosts = [publish(ours, 0, size.ports)?, publish(ours, 1, 1)?];
    for host in &hosts {
        host.serve()?;
    }
    for run in 1..=RUNS {
        let mut samples: [Vec<Duration>; 2] = Default::default();
        for turn in 0..size.connections {
            for side in turns(turn) {
                samples[side].push(hosts[side].connect()?);
            }
        }
        own.compare(
            format!("a connection with {} ports published, against one, run {run}", thousands(size.ports)),
            &samples[0],
            &samples[1],
            Some(1.1),
        );
    }
    Ok(())
}

fn publish(ours: &Suite, side: usize, ports: usize) -> Outcome<Published<'_>> {
    let of_each = ports.min(PORTS_OF_A_POD);
    let mut pods = Vec::new();
    let mut chain = Chain::new(ours, "connections", side, Vec::new())?;
    for pod in 0..ports / of_each {
        chain.replace_behind(vec![portmap(of_each, pod)]);
        let netns = NetNs::new()?;
        chain.add(&format!("pod-{pod}"), &netns)?;
        pods.push(netns);
    }
    Ok(Published { chain, pods, port: u16::try_from(10_000 + ports - 1)? })
}

impl Published<'_> {
    /// Accepts connections in the pod of the last port, until the benchmark ends.
    fn serve(&self) -> Outcome<()> {
        let last = self.pods.last().ok_or("no pods")?;
        last.enter()?;
        let container_port = 80 + (usize::from(self.port) - 10_000) % PORTS_OF_A_POD;
        let listener = TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], u16::try_from(container_port)?)))?;
        thread::spawn(move || listener.incoming().for_each(drop));
        Ok(())
    }

    /// The time until a connection is there. It ends before the next begins.
    fn connect(&self) -> Outcome<Duration> {
        self.chain.netns.enter()?;
        let start = Instant::now();
        let stream = TcpStream::connect(SocketAddr::from((HOST, self.port)))?;
        let elapsed = start.elapsed();
        drop(stream);
        Ok(elapsed)
    }
}
