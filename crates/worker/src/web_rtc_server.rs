//! A WebRtcServer: the sockets that many WebRtcTransports share, and how a datagram finds its Transport among them.

use rustc_hash::FxHashMap;
use worker_protocol::wire::transport::{ListenInfo, Protocol};
use worker_protocol::wire::{response, web_rtc_server as wire, web_rtc_transport};

use crate::error::{RequestError, RequestResult};
use crate::sockets::{SocketOwner, Sockets};
use crate::table::{SocketIdx, Table, TransportIdx, WebRtcServerIdx};
use crate::transport::Transport;
use crate::worker::Worker;

/// Local preference of the first listener's candidates (RFC 8445, section 5.1.2.1).
const LOCAL_PREFERENCE: u32 = 10_000;

/// How much less each further listener is preferred.
const LOCAL_PREFERENCE_STEP: u32 = 100;

/// How much more the preferred protocol's listeners are.
const PREFERRED_BONUS: u32 = 1_000;

/// How much less the address behind an announced one is preferred.
const INTERNAL_PENALTY: u32 = 1_000;

/// One entry of a server's or transport's `listenInfos`, opened.
#[derive(Debug)]
pub struct ListenEntry {
    /// The UDP socket or TCP listener.
    pub socket: SocketIdx,
    /// Which of the two.
    pub protocol: Protocol,
    /// What candidates say instead of the bound address.
    pub announced_address: Option<String>,
    /// Whether the bound address is advertised besides.
    pub expose_internal_ip: bool,
}

/// Which protocols the candidates of a transport cover.
#[derive(Debug, Clone, Copy)]
pub struct CandidateOptions {
    /// Advertise UDP listeners.
    pub enable_udp: bool,
    /// Advertise TCP listeners.
    pub enable_tcp: bool,
    /// Prefer UDP.
    pub prefer_udp: bool,
    /// Prefer TCP.
    pub prefer_tcp: bool,
}

/// A WebRtcServer.
#[derive(Debug)]
pub struct WebRtcServer {
    /// Its id.
    pub id: String,
    /// Its sockets, in the order of `listenInfos`.
    pub entries: Vec<ListenEntry>,
    /// The transports that use it.
    pub transports: Vec<TransportIdx>,
    /// Which transport has which local ICE username fragment.
    pub username_fragments: FxHashMap<String, TransportIdx>,
}

impl WebRtcServer {
    /// What `webRtcServer.dump()` answers.
    pub fn dump(&self, sockets: &Sockets, transports: &Table<TransportIdx, Transport>) -> wire::DumpResponse {
        let of = |protocol| {
            self.entries
                .iter()
                .filter(|entry| entry.protocol == protocol)
                .map(|entry| {
                    let local = sockets.local(entry.socket);
                    wire::IpPort { ip: local.ip().to_string(), port: local.port() }
                })
                .collect()
        };
        wire::DumpResponse {
            id: self.id.clone(),
            udp_sockets: of(Protocol::Udp),
            tcp_servers: of(Protocol::Tcp),
            web_rtc_transport_ids: self
                .transports
                .iter()
                .map(|index| transports[*index].id.clone())
                .collect(),
            local_ice_username_fragments: self
                .username_fragments
                .iter()
                .map(|(fragment, transport)| wire::IceUserNameFragment {
                    local_ice_username_fragment: fragment.clone(),
                    web_rtc_transport_id: transports[*transport].id.clone(),
                })
                .collect(),
        }
    }
}

/// The candidates that these listeners give.
pub fn candidates(
    entries: &[ListenEntry],
    sockets: &Sockets,
    options: CandidateOptions,
) -> Vec<web_rtc_transport::IceCandidate> {
    let mut candidates = Vec::with_capacity(entries.len() * 2);
    let mut decrement = 0;
    for entry in entries {
        let (enabled, preferred) = match entry.protocol {
            Protocol::Udp => (options.enable_udp, options.prefer_udp),
            Protocol::Tcp => (options.enable_tcp, options.prefer_tcp),
        };
        let preference =
            LOCAL_PREFERENCE.saturating_sub(decrement) + if preferred { PREFERRED_BONUS } else { 0 };
        decrement += LOCAL_PREFERENCE_STEP;
        if !enabled {
            continue;
        }
        let local = sockets.local(entry.socket);
        let priority = candidate_priority(preference);
        let mut push = |address: String, priority| {
            candidates.push(web_rtc_transport::IceCandidate {
                foundation: match entry.protocol {
                    Protocol::Udp => "udpcandidate".to_owned(),
                    Protocol::Tcp => "tcpcandidate".to_owned(),
                },
                priority,
                address,
                protocol: entry.protocol,
                port: local.port(),
                type_: web_rtc_transport::IceCandidateType::Host,
                tcp_type: match entry.protocol {
                    Protocol::Udp => None,
                    Protocol::Tcp => Some(web_rtc_transport::IceCandidateTcpType::Passive),
                },
            });
        };
        match &entry.announced_address {
            None => push(local.ip().to_string(), priority),
            Some(announced) => {
                push(announced.clone(), priority);
                if entry.expose_internal_ip {
                    push(local.ip().to_string(), priority - INTERNAL_PENALTY);
                }
            }
        }
    }
    candidates
}

/// RFC 8445, section 5.1.2.1, for component 1; the type preference is mediasoup's for host candidates.
fn candidate_priority(local_preference: u32) -> u32 {
    const TYPE_PREFERENCE: u32 = 64;
    (TYPE_PREFERENCE << 24) + (local_preference << 8) + 255
}

impl Worker {
    /// Opens a server's sockets, all of them or none.
    pub fn create_web_rtc_server(&mut self, id: String, infos: &[ListenInfo]) -> RequestResult<()> {
        if infos.is_empty() {
            return Err(RequestError::type_error("wrong listenInfos (empty array)"));
        }
        let index = self.web_rtc_servers.next_index();
        let entries = self.open_entries(infos, SocketOwner::WebRtcServer(index))?;
        self.web_rtc_servers.insert(WebRtcServer {
            id,
            entries,
            transports: Vec::new(),
            username_fragments: FxHashMap::default(),
        });
        Ok(())
    }

    /// Opens sockets for `infos`; when one fails, those before it are closed again.
    pub fn open_entries(
        &mut self,
        infos: &[ListenInfo],
        owner: SocketOwner,
    ) -> RequestResult<Vec<ListenEntry>> {
        let mut entries = Vec::with_capacity(infos.len());
        for info in infos {
            match self.sockets.open(info, self.port_range, owner) {
                Ok(socket) => entries.push(ListenEntry {
                    socket,
                    protocol: info.protocol,
                    announced_address: info.announced_address.clone().filter(|address| !address.is_empty()),
                    expose_internal_ip: info.expose_internal_ip,
                }),
                Err(error) => {
                    for entry in entries {
                        self.sockets.close(entry.socket);
                    }
                    return Err(error);
                }
            }
        }
        Ok(entries)
    }

    /// Closes a server: first the transports, which say goodbye through its sockets, then those.
    pub fn close_web_rtc_server(&mut self, index: WebRtcServerIdx) {
        while let Some(transport) =
            self.web_rtc_servers.get(index).and_then(|server| server.transports.last().copied())
        {
            self.close_transport(transport);
        }
        if let Some(server) = self.web_rtc_servers.remove(index) {
            self.flush();
            for entry in server.entries {
                for connection in self.sockets.connections_of(entry.socket) {
                    self.sockets.close(connection);
                }
                self.sockets.close(entry.socket);
            }
        }
    }

    /// Answers `webRtcServer.dump()`.
    pub fn dump_web_rtc_server(&self, index: WebRtcServerIdx) -> response::Body {
        response::Body::WebRtcServerDumpResponse(Box::new(
            self.web_rtc_servers[index].dump(&self.sockets, &self.transports),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_listener_has_the_highest_priority() {
        assert_eq!(candidate_priority(LOCAL_PREFERENCE), 1_076_302_079);
        assert!(
            candidate_priority(LOCAL_PREFERENCE)
                > candidate_priority(LOCAL_PREFERENCE - LOCAL_PREFERENCE_STEP)
        );
    }
}
