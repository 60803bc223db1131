//! What the end-to-end tests stand on: a server of their own, network namespaces, browsers, certificates.
//!
//! Everything started here ends with its owner, a panic included. Everything waited for has a deadline. A missing
//! program or permission fails a test with the words to mend it; nothing is skipped.

mod binaries;
mod certificate;
mod cluster;
mod draining;
pub mod failover;
mod ffmpeg;
mod link;
pub mod load;
pub mod loss;
mod machines;
mod namespace;
mod nginx;
mod proc;
mod redis;
mod scenario;
mod server;
mod undisturbed;
mod waiting;

pub use crate::{
    binaries::{mediasoup_packages, node, node_22, python, root, tureen, tureen_worker},
    certificate::Certificate,
    cluster::Cluster,
    draining::Draining,
    ffmpeg::{Publisher, Recorder, Recording, RtpEnd},
    link::{Link, LinkControl, LinkProfiles},
    machines::machine_address,
    namespace::{Namespace, Network},
    nginx::{Nginx, NginxFolder, nginx_configuration},
    proc::{Listening, alive, children, end, kill, listening, open_descriptors, resident_bytes},
    redis::Redis,
    scenario::{Scenario, run_scenario, run_scenario_in},
    server::{Server, ServerOptions},
    undisturbed::undisturbed,
    waiting::{blocking_until, runtime, until},
};
