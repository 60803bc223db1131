//! The room's end of one session: where its messages go now, and what is kept for a client that can come back.

use std::sync::Arc;

use room::{Heard, Outgoing, RequestId, SessionId, close_code};
use tokio::sync::mpsc;

use crate::moving::{Move, WrittenSeat};
use crate::resume::NotResumed;
use crate::session::{OUTBOX, Permit, ToClient};

#[derive(Debug)]
pub(crate) struct Seat {
    /// Which of the session's connections is the present one, or was the last.
    attachment: u64,
    /// `None` while its client is away.
    outbox: Option<mpsc::Sender<ToClient>>,
    /// Of a client that can come back.
    line: Option<Outgoing<ToClient>>,
    /// Of one that came here with its room, until whoever carries it follows: what it is to be told.
    coming: Option<Vec<ToClient>>,
    /// Its place among the host's sessions, where its connection does not have it.
    _permit: Option<Arc<Permit>>,
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    /// It is on its way, or kept; or its client is gone, which the room will hear.
    Taken,
    /// The client does not read.
    Full,
}

impl Seat {
    /// `stays`: the place of a client that can come back, for which up to `kept` messages are kept.
    pub(crate) fn new(
        attachment: u64,
        outbox: mpsc::Sender<ToClient>,
        stays: Option<Arc<Permit>>,
        kept: usize,
    ) -> Self {
        let line = stays.is_some().then(|| Outgoing::new(kept));
        Self { attachment, outbox: Some(outbox), line, coming: None, _permit: stays }
    }

    /// That of a session that came here with its room.
    pub(crate) fn restored(written: WrittenSeat, permit: Arc<Permit>) -> (SessionId, Self) {
        let WrittenSeat { session, line, away } = written;
        let coming = (!away).then(Vec::new);
        (session, Self { attachment: 0, outbox: None, line, coming, _permit: Some(permit) })
    }

    /// As it is written down.
    pub(crate) fn write(&self, session: SessionId) -> WrittenSeat {
        WrittenSeat { session, line: self.line.clone(), away: self.outbox.is_none() && self.coming.is_none() }
    }

    /// Tells whoever carries the session of its room's move. `false`: nobody hears it.
    pub(crate) fn tell_of_move(&self, what: Move) -> bool {
        self.outbox.as_ref().is_some_and(|outbox| outbox.try_send(ToClient::Move(what)).is_ok())
    }

    /// Whether whoever carries the session has not followed its room yet.
    pub(crate) fn is_coming(&self) -> bool {
        self.coming.is_some()
    }

    /// Whoever carries the session has followed its room.
    pub(crate) fn come(&mut self, attachment: u64, outbox: mpsc::Sender<ToClient>) -> Result<(), NotResumed> {
        for message in self.coming.take().ok_or(NotResumed::Gone)? {
            // No more wait than it takes.
            let _ = outbox.try_send(message);
        }
        (self.attachment, self.outbox) = (attachment, Some(outbox));
        Ok(())
    }

    /// Whether a connection has it.
    pub(crate) fn is_attached(&self) -> bool {
        self.outbox.is_some()
    }

    /// No connection has it any more. Whether its client can come back.
    pub(crate) fn go_away(&mut self) -> bool {
        (self.outbox, self.coming) = (None, None);
        self.line.is_some()
    }

    /// Whether this is the present connection.
    pub(crate) fn is(&self, attachment: u64) -> bool {
        self.attachment == attachment && self.outbox.is_some()
    }

    /// Whether no connection came after this one.
    pub(crate) fn is_latest(&self, attachment: u64) -> bool {
        self.attachment == attachment
    }

    /// This connection is gone. Whether its client is away now.
    pub(crate) fn detach(&mut self, attachment: u64) -> bool {
        let is_present = self.is(attachment) && self.line.is_some();
        if is_present {
            self.outbox = None;
        }
        is_present
    }

    /// The client comes by another connection, and is told what it missed. An older connection, if it is there yet, ends.
    pub(crate) fn attach(
        &mut self,
        attachment: u64,
        outbox: mpsc::Sender<ToClient>,
        received: u64,
    ) -> Result<(), NotResumed> {
        let line = self.line.as_mut().ok_or(NotResumed::Gone)?;
        for missed in line.since(received).map_err(|_| NotResumed::Missed)? {
            // No more are kept than it takes.
            let _ = outbox.try_send(missed.clone());
        }
        if let Some(older) = self.outbox.replace(outbox) {
            let reason = "the client came back by another connection".into();
            let _ = older.try_send(ToClient::Close { code: close_code::FINAL, reason });
        }
        self.attachment = attachment;
        self.coming = None;
        Ok(())
    }

    /// Takes note of a request.
    pub(crate) fn hear(&mut self, request: RequestId) -> Heard {
        self.line.as_mut().map_or(Heard::New, |line| line.hear(request))
    }

    /// The client has all messages up to this number.
    pub(crate) fn received(&mut self, up_to: u64) {
        if let Some(line) = &mut self.line {
            line.received(up_to);
        }
    }

    /// Says something, and keeps it for a client that can come back.
    pub(crate) fn tell(&mut self, answers: Option<RequestId>, message: ToClient) -> Told {
        if let Some(line) = &mut self.line {
            line.say(answers, message.clone());
        }
        if let Some(coming) = &mut self.coming {
            if coming.len() >= OUTBOX {
                return Told::Full;
            }
            coming.push(message);
            return Told::Taken;
        }
        let Some(outbox) = &self.outbox else { return Told::Taken };
        match outbox.try_send(message) {
            // Of a closed one, the end is on the way.
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Told::Taken,
            Err(mpsc::error::TrySendError::Full(_)) => Told::Full,
        }
    }
}
