//! The settings of a cluster's node: from text to what can be used, or to a sentence that says what to do.

use std::net::SocketAddr;
use std::path::PathBuf;

use cluster::node::{NodeId, Region, Roles};
use store::RedisSettings;

use super::Config;

/// What makes this process a node of a cluster.
#[derive(Debug, Clone)]
pub(crate) struct ClusterSettings {
    pub(crate) redis: RedisSettings,
    pub(crate) cluster: String,
    pub(crate) id: NodeId,
    pub(crate) region: Region,
    pub(crate) link_listen: SocketAddr,
    pub(crate) link_address: Option<SocketAddr>,
    pub(crate) link_tls_dir: Option<PathBuf>,
}

/// What this process does.
pub(super) fn roles(config: &Config) -> Result<Roles, String> {
    let mut roles = Roles::default();
    for role in config.roles.split(',').map(str::trim) {
        match role {
            "signal" => roles.signal = true,
            "media" => roles.media = true,
            _ => return Err(format!("roles: {role:?} is none of signal and media, separated by commas")),
        }
    }
    if config.redis.is_none() && !(roles.signal && roles.media) {
        return Err(format!(
            "roles: {:?} is a part of a cluster, whose nodes find each other in a store: name it with redis, or leave \
             roles out",
            config.roles
        ));
    }
    Ok(roles)
}

/// What makes it a node; `None` when it is alone.
pub(super) fn cluster(config: &Config) -> Result<Option<ClusterSettings>, String> {
    let Some(redis) = &config.redis else { return Ok(None) };
    let redis = redis.parse().map_err(|error| format!("redis: {error}"))?;
    let Some(id) = &config.node_id else {
        return Err(
            "node_id: every node of a cluster needs a name of its own, for example media-1".to_owned()
        );
    };
    let id = id.parse().map_err(|error| format!("node_id: {error}"))?;
    let region = config.region.parse().map_err(|error| format!("region: {error}"))?;
    if !config.link_listen.ip().is_loopback() && config.link_tls_dir.is_none() {
        return Err(format!(
            "link_listen: {} can be reached by others, and whoever reaches a link can act as a node. Make \
             certificates with `tureen cert` and name their folder with link_tls_dir",
            config.link_listen
        ));
    }
    Ok(Some(ClusterSettings {
        redis,
        cluster: config.cluster.clone(),
        id,
        region,
        link_listen: config.link_listen,
        link_address: config.link_address,
        link_tls_dir: config.link_tls_dir.clone(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config { redis: Some("redis://h".to_owned()), node_id: Some("m1".to_owned()), ..Config::default() }
    }

    #[test]
    fn one_process_alone_needs_nothing() {
        let config = Config::default();
        assert!(cluster(&config).expect("fine").is_none());
        let roles = roles(&config).expect("fine");
        assert!(roles.signal && roles.media);
    }

    #[test]
    fn parts_of_a_cluster_need_a_store_and_a_name() {
        let lonely = Config { roles: "media".to_owned(), ..Config::default() };
        assert!(roles(&lonely).expect_err("alone").contains("redis"));
        let nameless = Config { node_id: None, ..config() };
        assert!(cluster(&nameless).expect_err("no name").contains("node_id"));
        let odd = Config { roles: "media,signal,tea".to_owned(), ..config() };
        assert!(roles(&odd).expect_err("tea").contains("tea"));
        let node = cluster(&config()).expect("fine").expect("a node");
        assert_eq!((node.id.as_str(), node.region.as_str()), ("m1", "default"));
    }

    #[test]
    fn links_beyond_this_machine_need_certificates() {
        let open = Config { link_listen: SocketAddr::from(([10, 0, 0, 5], 7000)), ..config() };
        assert!(cluster(&open).expect_err("no certificates").contains("tureen cert"));
        let secure = Config { link_tls_dir: Some("d".into()), ..open };
        assert!(cluster(&secure).expect("fine").is_some());
        let anywhere = Config { link_listen: SocketAddr::from(([0, 0, 0, 0], 7000)), ..secure };
        assert!(cluster(&anywhere).expect("fine").is_some());
        let open = Config { link_tls_dir: None, ..anywhere };
        assert!(cluster(&open).expect_err("no certificates").contains("tureen cert"));
    }
}
