//! Making a WebRtcTransport, its credentials and candidates; `connect()` and `restartIce()`.

use std::time::{Duration, Instant};

use rtc::certificate::{Fingerprint, FingerprintAlgorithm};
use rtc::dtls::DtlsTransport;
use rtc::ice::IceServer;
use worker_protocol::wire::{response, transport as base, web_rtc_transport as wire};

use super::WebRtc;
use crate::error::{RequestError, RequestResult};
use crate::sockets::SocketOwner;
use crate::table::{RouterIdx, TransportIdx};
use crate::transport::{TransportKind, TransportOptions};
use crate::web_rtc_server::{CandidateOptions, candidates};
use crate::worker::{Handler, Timer, Worker};

/// Characters of a username fragment and of a password: well above what RFC 8445 asks for.
const CREDENTIAL_LEN: usize = 32;

impl Worker {
    /// Answers `router.createWebRtcTransport()`, with or without a server.
    pub fn create_web_rtc_transport(
        &mut self,
        router: RouterIdx,
        id: String,
        options: wire::WebRtcTransportOptions,
        now: Instant,
    ) -> RequestResult<TransportIdx> {
        let base = TransportOptions::parse(&options.base)?;
        let index = self.transports.next_index();
        let wanted = CandidateOptions {
            enable_udp: options.enable_udp,
            enable_tcp: options.enable_tcp,
            prefer_udp: options.prefer_udp,
            prefer_tcp: options.prefer_tcp,
        };
        let (server, entries, candidates) = match options.listen {
            wire::Listen::ListenServer(listen) => {
                let Some(&(_, Handler::WebRtcServer(server))) = self.handlers.get(&listen.web_rtc_server_id)
                else {
                    return Err(RequestError::error(
                        "wrong webRtcServerId (no associated WebRtcServer found)",
                    ));
                };
                let candidates = candidates(&self.web_rtc_servers[server].entries, &self.sockets, wanted);
                if candidates.is_empty() {
                    return Err(RequestError::type_error("empty iceCandidates"));
                }
                (Some(server), Vec::new(), candidates)
            }
            wire::Listen::ListenIndividual(listen) => {
                let entries = self.open_entries(&listen.listen_infos, SocketOwner::Transport(index))?;
                // Its own listeners are all advertised, as they were asked for one by one.
                let all = CandidateOptions {
                    enable_udp: true,
                    enable_tcp: true,
                    prefer_udp: false,
                    prefer_tcp: false,
                };
                let candidates = candidates(&entries, &self.sockets, all);
                (None, entries, candidates)
            }
        };
        let consent_timeout = Duration::from_secs(u64::from(options.ice_consent_timeout));
        let web_rtc = WebRtc {
            server,
            entries,
            candidates,
            ice: IceServer::new(credential()?, credential()?, consent_timeout),
            dtls: DtlsTransport::new(&self.dtls),
            dtls_role: wire::DtlsRole::Auto,
            connect_called: false,
            timer: self.timers.create(Timer::WebRtc(index)),
        };
        self.insert_transport(router, id, TransportKind::WebRtc(Box::new(web_rtc)), base);
        if let Some(server) = server {
            self.web_rtc_servers[server].transports.push(index);
        }
        self.drain_web_rtc(index, now);
        Ok(index)
    }

    /// Answers `webRtcTransport.connect()` with our role.
    pub fn connect_web_rtc_transport(
        &mut self,
        index: TransportIdx,
        parameters: &wire::DtlsParameters,
        now: Instant,
    ) -> RequestResult<wire::DtlsRole> {
        let TransportKind::WebRtc(web_rtc) = &mut self.transports[index].kind else {
            return Err(RequestError::error("not a WebRtcTransport"));
        };
        if web_rtc.connect_called {
            return Err(RequestError::error("connect() already called"));
        }
        // As in mediasoup, the first fingerprint is the one that counts.
        let Some(fingerprint) = parameters.fingerprints.first() else {
            return Err(RequestError::type_error("empty dtlsParameters.fingerprints array"));
        };
        let fingerprint =
            Fingerprint { algorithm: algorithm(fingerprint.algorithm), value: fingerprint.value.clone() };
        web_rtc.connect_called = true;
        let role = match parameters.role {
            wire::DtlsRole::Client => wire::DtlsRole::Server,
            // RFC 8842: who is offered `actpass` becomes active; so does the ICE controlled side here.
            wire::DtlsRole::Server | wire::DtlsRole::Auto => wire::DtlsRole::Client,
        };
        // A handshake that the peer began before this request has settled the roles.
        if web_rtc.dtls.role().is_none() {
            web_rtc.dtls_role = role;
        }
        let role = web_rtc.dtls_role;
        web_rtc.dtls.set_remote_fingerprint(fingerprint, now);
        self.start_dtls(index, now);
        self.drain_web_rtc(index, now);
        Ok(role)
    }

    /// Answers `transport.restartIce()`.
    pub fn restart_ice(&mut self, index: TransportIdx, now: Instant) -> RequestResult<response::Body> {
        let TransportKind::WebRtc(web_rtc) = &mut self.transports[index].kind else {
            return Err(RequestError::error("not a WebRtcTransport"));
        };
        let (username_fragment, password) = (credential()?, credential()?);
        web_rtc.ice.restart(username_fragment.clone(), password.clone(), now);
        self.drain_web_rtc(index, now);
        Ok(response::Body::TransportRestartIceResponse(Box::new(base::RestartIceResponse {
            username_fragment,
            password,
            ice_lite: true,
        })))
    }
}

/// Random letters and digits.
fn credential() -> RequestResult<String> {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let mut random = [0; CREDENTIAL_LEN];
    getrandom::fill(&mut random)
        .map_err(|error| RequestError::error(format!("no randomness for ICE credentials: {error}")))?;
    Ok(random.iter().map(|byte| char::from(ALPHABET[usize::from(byte & 31)])).collect())
}

/// The hash that the schema names.
pub fn algorithm(algorithm: wire::FingerprintAlgorithm) -> FingerprintAlgorithm {
    match algorithm {
        wire::FingerprintAlgorithm::Sha1 => FingerprintAlgorithm::Sha1,
        wire::FingerprintAlgorithm::Sha224 => FingerprintAlgorithm::Sha224,
        wire::FingerprintAlgorithm::Sha256 => FingerprintAlgorithm::Sha256,
        wire::FingerprintAlgorithm::Sha384 => FingerprintAlgorithm::Sha384,
        wire::FingerprintAlgorithm::Sha512 => FingerprintAlgorithm::Sha512,
    }
}

/// A fingerprint of ours as the schema carries it.
pub fn wire_fingerprint(fingerprint: &Fingerprint) -> wire::Fingerprint {
    wire::Fingerprint {
        algorithm: match fingerprint.algorithm {
            FingerprintAlgorithm::Sha1 => wire::FingerprintAlgorithm::Sha1,
            FingerprintAlgorithm::Sha224 => wire::FingerprintAlgorithm::Sha224,
            FingerprintAlgorithm::Sha256 => wire::FingerprintAlgorithm::Sha256,
            FingerprintAlgorithm::Sha384 => wire::FingerprintAlgorithm::Sha384,
            FingerprintAlgorithm::Sha512 => wire::FingerprintAlgorithm::Sha512,
        },
        value: fingerprint.value.clone(),
    }
}
