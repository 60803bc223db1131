//! Configurations for the programs that stand before servers: nginx, and keepalived where two nginx machines share an
//! address. Only text is made here; nothing is started, and no file written.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use cluster::node::Region;

/// Where a server listens: an address or a name, and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Upstream(String);

impl From<SocketAddr> for Upstream {
    fn from(address: SocketAddr) -> Self {
        Self(address.to_string())
    }
}

impl FromStr for Upstream {
    type Err = String;

    /// Nothing that could end nginx's word and begin another gets through.
    fn from_str(text: &str) -> Result<Self, String> {
        if text.parse::<SocketAddr>().is_ok() {
            return Ok(Self(text.to_owned()));
        }
        let (host, port) = text.rsplit_once(':').ok_or("HOST:PORT was expected")?;
        if port.parse::<u16>().map_or(true, |port| port == 0) {
            return Err(format!("{port:?} is no port"));
        }
        if !is_host_name(host) {
            return Err(format!("{host:?} is neither an address nor a host name"));
        }
        Ok(Self(text.to_owned()))
    }
}

fn is_host_name(text: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    !text.is_empty() && text.len() <= 253 && text.split('.').all(label)
}

fn host_name(text: &str) -> Result<String, String> {
    if is_host_name(text) { Ok(text.to_owned()) } else { Err(format!("{text:?} is no host name")) }
}

/// A path that nginx reads as one word when it is quoted.
fn plain_path(text: &str) -> Result<PathBuf, String> {
    if text.chars().any(|c| c.is_control() || matches!(c, '"' | '\\' | '$')) {
        return Err("a path without control characters, quotes, backslashes and $ was expected".to_owned());
    }
    Ok(text.into())
}

/// A URL that is one word to keepalived.
fn plain_url(text: &str) -> Result<String, String> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:/[]?=&%".contains(&byte);
    let scheme = text.starts_with("http://") || text.starts_with("https://");
    if scheme && text.bytes().all(fits) {
        Ok(text.to_owned())
    } else {
        Err("an http or https URL without spaces and quotes was expected".to_owned())
    }
}

/// What an nginx configuration depends on.
#[derive(Debug, Args)]
pub(crate) struct NginxSettings {
    /// A server's address; may be repeated
    #[arg(long = "upstream", value_name = "HOST:PORT", required_unless_present = "redis")]
    pub(crate) upstreams: Vec<Upstream>,
    /// The store of a cluster: its living signal nodes are servers, too
    #[arg(long, value_name = "URL")]
    pub(crate) redis: Option<String>,
    /// Only those of this region
    #[arg(long, value_name = "NAME", requires = "redis")]
    pub(crate) region: Option<Region>,
    /// The port that nginx listens on [default: 443 with a certificate, else 80]
    #[arg(long, value_name = "PORT")]
    pub(crate) port: Option<u16>,
    /// The name that clients know it by
    #[arg(long, value_name = "NAME", value_parser = host_name)]
    pub(crate) server_name: Option<String>,
    /// Certificate chain in PEM
    #[arg(long, value_name = "FILE", requires = "tls_key", value_parser = plain_path)]
    pub(crate) tls_cert: Option<PathBuf>,
    /// Its private key in PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert", value_parser = plain_path)]
    pub(crate) tls_key: Option<PathBuf>,
}

/// A file for nginx's `conf.d`: what belongs into its `http` block.
pub(crate) fn nginx(settings: &NginxSettings) -> String {
    let mut servers = String::new();
    for Upstream(upstream) in &settings.upstreams {
        // Two failures in two seconds, and it is passed over for two: protoo's clients come again within one.
        let _ = writeln!(servers, "    server {upstream} max_fails=2 fail_timeout=2s;");
    }
    let name = settings.server_name.as_deref().unwrap_or("_");
    let tls = settings.tls_cert.as_ref().zip(settings.tls_key.as_ref());
    let port = settings.port.unwrap_or(if tls.is_some() { 443 } else { 80 });
    let listen = match tls {
        Some((certificate, key)) => format!(
            "    listen {port} ssl;\n    listen [::]:{port} ssl;\n    ssl_certificate \"{}\";\n    ssl_certificate_key \
             \"{}\";\n    ssl_protocols TLSv1.2 TLSv1.3;\n    ssl_session_cache shared:tureen_tls:10m;",
            certificate.display(),
            key.display()
        ),
        None => format!("    listen {port};\n    listen [::]:{port};"),
    };
    format!(
        r#"# Printed by `tureen config nginx`: belongs into nginx's http block, for example as conf.d/tureen.conf.
# The servers should believe its X-Forwarded-For: limits.session.trusted_proxies.

# Plain requests keep their connection to the server, WebSockets change it.
map $http_upgrade $tureen_connection {{
    default upgrade;
    ""      "";
}}

# The room: in the path of the API for broadcasters, else in the query. All who name it meet on one server.
map $request_uri $tureen_named {{
    "~^/rooms/(?<tureen_path_room>[^/?]+)" $tureen_path_room;
    default $arg_roomId;
}}

map $tureen_named $tureen_room {{
    ""        $remote_addr;
    undefined $remote_addr;
    default   $tureen_named;
}}

upstream tureen {{
    zone tureen 256k;
    hash $tureen_room consistent;
{servers}    keepalive 64;
}}

server {{
{listen}
    server_name {name};
    # As much as a server reads of one message.
    client_max_body_size 128k;

    proxy_http_version 1.1;
    proxy_set_header Host $http_host;
    proxy_set_header Upgrade $http_upgrade;
    proxy_set_header Connection $tureen_connection;
    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    proxy_set_header X-Forwarded-Proto $scheme;

    # A server that does not answer is left for the next. What may have had an effect is not sent twice, which nginx
    # sees to itself: it repeats no POST.
    proxy_connect_timeout 1s;
    proxy_next_upstream error timeout http_502 http_503 http_504;
    proxy_next_upstream_tries 3;
    proxy_next_upstream_timeout 5s;

    # Servers ping every 5 s and give up after 15 s of silence: what is silent for a minute is dead.
    proxy_read_timeout 60s;
    proxy_send_timeout 60s;

    location / {{
        proxy_pass http://tureen;
    }}

    # Whether nginx itself runs.
    location = /nginx-health {{
        access_log off;
        return 204;
    }}

    # For whoever watches the servers, on their own addresses.
    location = /metrics {{
        return 404;
    }}
}}
"#
    )
}

/// What a keepalived configuration depends on.
#[derive(Debug, Args)]
pub(crate) struct KeepalivedSettings {
    /// This machine's own address
    #[arg(long, value_name = "IP")]
    pub(crate) address: IpAddr,
    /// The other machine's address; may be repeated
    #[arg(long = "peer", value_name = "IP", required = true)]
    pub(crate) peers: Vec<IpAddr>,
    /// The address that they share
    #[arg(long, value_name = "IP/PREFIX")]
    pub(crate) virtual_address: VirtualAddress,
    /// The network interface of the shared address
    #[arg(long, value_name = "NAME", value_parser = interface)]
    pub(crate) interface: String,
    /// The machine with the highest priority has the address while its nginx runs
    #[arg(long, value_name = "1-254", default_value_t = 100, value_parser = clap::value_parser!(u8).range(1..=254))]
    pub(crate) priority: u8,
    /// The same number on all machines that share the address, another for others in the same network
    #[arg(long, value_name = "1-255", default_value_t = 51, value_parser = clap::value_parser!(u8).range(1..=255))]
    pub(crate) router_id: u8,
    /// Where this machine's nginx says that it runs
    #[arg(long, value_name = "URL", default_value = "https://127.0.0.1/nginx-health", value_parser = plain_url)]
    pub(crate) check: String,
}

/// An address with the length of its network's prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VirtualAddress(IpAddr, u8);

impl FromStr for VirtualAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (ip, prefix) = text.split_once('/').ok_or("IP/PREFIX was expected, as in 203.0.113.10/24")?;
        let ip: IpAddr = ip.parse().map_err(|_| format!("{ip:?} is no address"))?;
        let longest = if ip.is_ipv4() { 32 } else { 128 };
        match prefix.parse() {
            Ok(prefix) if prefix <= longest => Ok(Self(ip, prefix)),
            _ => Err(format!("{prefix:?} is no length of a prefix: 0 to {longest}")),
        }
    }
}

fn interface(text: &str) -> Result<String, String> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.@".contains(&byte);
    if (1..=15).contains(&text.len()) && text.bytes().all(fits) {
        Ok(text.to_owned())
    } else {
        Err(format!("{text:?} is no name of a network interface"))
    }
}

/// A whole keepalived.conf.
pub(crate) fn keepalived(settings: &KeepalivedSettings) -> String {
    let KeepalivedSettings { address, peers, virtual_address, interface, priority, router_id, check } =
        settings;
    let VirtualAddress(ip, prefix) = virtual_address;
    let peers: String = peers.iter().map(|peer| format!("        {peer}\n")).collect();
    format!(
        r#"# Printed by `tureen config keepalived`. The other machine's differs in addresses and priority.

global_defs {{
    router_id tureen_{router_id}
    # Sub-second advertisements need version 3 of VRRP.
    vrrp_version 3
    enable_script_security
    script_user nobody
}}

# Without nginx this machine has nothing to serve the address with. Only nginx itself is asked: when no server answers,
# the other machine would be no better.
vrrp_script nginx {{
    script "/usr/bin/curl --silent --fail --insecure --max-time 1 --output /dev/null {check}"
    interval 1
    timeout 2
    fall 2
    rise 2
}}

vrrp_instance tureen {{
    state BACKUP
    interface {interface}
    virtual_router_id {router_id}
    priority {priority}
    advert_int 0.2
    unicast_src_ip {address}
    unicast_peer {{
{peers}    }}
    virtual_ipaddress {{
        {ip}/{prefix}
    }}
    track_script {{
        nginx
    }}
}}
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstreams_are_addresses_or_names_with_a_port() {
        for good in ["10.0.0.1:4443", "[::1]:4443", "signal-1.tureen.svc:4443", "signal_1:1"] {
            assert!(good.parse::<Upstream>().is_ok(), "{good}");
        }
        for bad in ["10.0.0.1", "a:0", "a:99999", "a b:1", "a;}:1", "http://a:1", ":1", "a.:1", "$host:1"] {
            assert!(bad.parse::<Upstream>().is_err(), "{bad}");
        }
        let address: SocketAddr = "[::1]:4443".parse().expect("an address");
        assert_eq!(Ok(Upstream::from(address)), "[::1]:4443".parse());
    }

    #[test]
    fn what_would_break_out_of_its_word_is_refused() {
        assert!(plain_path("/etc/ssl/my key.pem").is_ok());
        for bad in ["a\"b", "a\nb", "$document_root", "a\\"] {
            assert!(plain_path(bad).is_err(), "{bad:?}");
        }
        for bad in ["", "eth0 {", "0123456789abcdef"] {
            assert!(interface(bad).is_err(), "{bad:?}");
        }
        for bad in ["10.0.0.1", "10.0.0.1/33", "x/24"] {
            assert!(bad.parse::<VirtualAddress>().is_err(), "{bad}");
        }
        assert!("fd00::1/64".parse::<VirtualAddress>().is_ok());
    }

    #[test]
    fn every_upstream_is_in_the_configuration_once() {
        let upstreams = ["10.0.0.1:1", "10.0.0.2:2"].map(|text| text.parse().expect("an upstream"));
        let settings = NginxSettings {
            upstreams: upstreams.to_vec(),
            redis: None,
            region: None,
            port: None,
            server_name: None,
            tls_cert: None,
            tls_key: None,
        };
        let text = nginx(&settings);
        for server in ["    server 10.0.0.1:1 ", "    server 10.0.0.2:2 ", "    listen 80;"] {
            assert_eq!(text.matches(server).count(), 1, "{server}");
        }
        assert!(!text.contains("ssl"));
    }
}
