//! What one client is told, numbered from 1, and kept until the client has said that it has it: so that a client whose
//! connection breaks goes on where it was, on another one. The other way, which of its requests are known, so that one
//! that it repeats because its answer was lost is not done twice.
//!
//! It knows neither connections nor what is said.

use std::collections::{BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

use crate::id::RequestId;

/// Requests of one client that are being done at once. Gateways let a connection have far fewer.
const BEING_DONE: usize = 1024;

/// One client's messages, numbered.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Outgoing<M> {
    /// The number of the last message; 0 before the first.
    last: u64,
    /// The newest messages, the last of them numbered `last`, each with the request that it answers.
    kept: VecDeque<(Option<RequestId>, M)>,
    /// Requests that are being done, or whose answer is kept.
    known: BTreeSet<RequestId>,
    limit: usize,
}

/// What to do with a client's request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// Do it.
    New,
    /// It was heard before: its answer comes, or has been said again.
    Repeated,
    /// The client has too many unanswered: refuse it.
    TooMany,
}

/// The client misses messages that are not kept any more, or says that it has some that were never said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("what was said since message {received} is not kept: the last is {last}, the first kept {first}")]
pub struct NotKept {
    received: u64,
    first: u64,
    last: u64,
}

impl<M> Outgoing<M> {
    /// Nothing was said yet. Keeps at most `limit` messages, the newest.
    pub fn new(limit: usize) -> Self {
        Self { last: 0, kept: VecDeque::new(), known: BTreeSet::new(), limit }
    }

    /// The number of the last message.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// How many messages are kept.
    pub fn kept(&self) -> usize {
        self.kept.len()
    }

    /// Takes note of a request.
    pub fn hear(&mut self, request: RequestId) -> Heard {
        if request.is_unanswered() {
            Heard::New
        } else if self.known.contains(&request) {
            Heard::Repeated
        } else if self.known.len() >= self.limit.saturating_add(BEING_DONE) {
            Heard::TooMany
        } else {
            self.known.insert(request);
            Heard::New
        }
    }

    /// Numbers and keeps a message. What is beyond the limit is forgotten, the oldest first.
    pub fn say(&mut self, answers: Option<RequestId>, message: M) {
        self.last = self.last.saturating_add(1);
        self.kept.push_back((answers, message));
        while self.kept.len() > self.limit {
            self.forget_oldest();
        }
    }

    /// The client has all messages up to this number.
    pub fn received(&mut self, up_to: u64) {
        while !self.kept.is_empty() && self.first() <= up_to {
            self.forget_oldest();
        }
    }

    /// What the client misses that has all messages up to `received`, in order.
    ///
    /// # Errors
    /// [`NotKept`]; nothing has changed.
    pub fn since(&mut self, received: u64) -> Result<impl Iterator<Item = &M>, NotKept> {
        let first = self.first();
        if received > self.last || received.saturating_add(1) < first {
            return Err(NotKept { received, first, last: self.last });
        }
        self.received(received);
        Ok(self.kept.iter().map(|(_, message)| message))
    }

    /// The number of the oldest message that is kept, or will be.
    fn first(&self) -> u64 {
        // No more are kept than were said.
        self.last.saturating_sub(self.kept.len() as u64).saturating_add(1)
    }

    fn forget_oldest(&mut self) {
        if let Some((Some(request), _)) = self.kept.pop_front() {
            self.known.remove(&request);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_request_is_known_until_its_answer_is_received() {
        let mut line = Outgoing::new(2);
        assert_eq!(line.hear(RequestId(5)), Heard::New);
        assert_eq!(line.hear(RequestId(5)), Heard::Repeated, "it is being done");
        line.say(None, "news");
        line.say(Some(RequestId(5)), "answer");
        assert_eq!(line.hear(RequestId(5)), Heard::Repeated, "its answer is on the way");
        line.received(2);
        assert_eq!(line.hear(RequestId(5)), Heard::New);
        for number in 10..BEING_DONE as u64 + 11 {
            assert_eq!(line.hear(RequestId(number)), Heard::New);
        }
        assert_eq!(line.hear(RequestId(7)), Heard::TooMany);
        assert_eq!(line.hear(RequestId::unanswered(7)), Heard::New, "nobody repeats those");
    }

    #[test]
    fn what_is_not_kept_cannot_be_said_again() {
        let mut line = Outgoing::new(3);
        for number in 1..=5 {
            line.say(None, number);
        }
        assert_eq!(line.since(1).map(Iterator::collect::<Vec<_>>).ok(), None);
        assert_eq!(line.since(6).map(Iterator::collect::<Vec<_>>).ok(), None, "nobody said that");
        assert_eq!(line.since(2).map(Iterator::collect::<Vec<_>>), Ok(vec![&3, &4, &5]));
        assert_eq!(line.since(5).map(Iterator::collect::<Vec<_>>), Ok(vec![]));
        assert_eq!(line.kept(), 0);
        line.received(u64::MAX);
        line.say(None, 6);
        assert_eq!(line.since(5).map(Iterator::collect::<Vec<_>>), Ok(vec![&6]));
    }

    /// What happens to a client and its connection.
    #[derive(Debug, Clone, Copy)]
    enum Step {
        /// The client asks something.
        Ask,
        /// The room says something of its own accord.
        Tell,
        /// So many messages of each direction get through.
        Pass(usize, usize),
        /// The client says what it has.
        Acknowledge,
        /// The room answers the oldest request.
        Answer,
        /// The connection breaks, with all that is on it, and another takes its place.
        Break,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => Just(Step::Ask),
            3 => Just(Step::Tell),
            4 => (0_usize..4, 0_usize..4).prop_map(|(up, down)| Step::Pass(up, down)),
            1 => Just(Step::Acknowledge),
            3 => Just(Step::Answer),
            2 => Just(Step::Break),
        ]
    }

    /// What a client says.
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Up {
        Request(RequestId),
        Received(u64),
    }

    /// A client and its room with connections between them that break anywhere.
    struct World {
        line: Outgoing<u64>,
        up: VecDeque<Up>,
        down: VecDeque<u64>,
        /// What the room does.
        doing: VecDeque<RequestId>,
        done: Vec<RequestId>,
        said: Vec<u64>,
        /// What the client has.
        received: Vec<u64>,
        unanswered: Vec<RequestId>,
        answers: std::collections::BTreeMap<u64, RequestId>,
        last_request: u64,
        last_message: u64,
    }

    impl World {
        fn say(&mut self, answers: Option<RequestId>) {
            self.last_message += 1;
            if let Some(request) = answers {
                self.answers.insert(self.last_message, request);
            }
            self.said.push(self.last_message);
            self.line.say(answers, self.last_message);
            self.down.push_back(self.last_message);
        }

        fn up(&mut self) {
            match self.up.pop_front() {
                Some(Up::Request(request)) if self.line.hear(request) == Heard::New => {
                    self.done.push(request);
                    self.doing.push_back(request);
                }
                Some(Up::Received(up_to)) => self.line.received(up_to),
                Some(Up::Request(_)) | None => {}
            }
        }

        fn down(&mut self) {
            let Some(message) = self.down.pop_front() else { return };
            self.received.push(message);
            if let Some(request) = self.answers.get(&message) {
                self.unanswered.retain(|unanswered| unanswered != request);
            }
        }

        fn reconnect(&mut self) {
            self.up = self.unanswered.iter().copied().map(Up::Request).collect();
            self.down.clear();
            let received = self.received.len() as u64;
            self.down.extend(self.line.since(received).expect("kept").copied());
        }

        fn step(&mut self, step: Step) {
            match step {
                Step::Ask => {
                    self.last_request += 1;
                    self.unanswered.push(RequestId(self.last_request));
                    self.up.push_back(Up::Request(RequestId(self.last_request)));
                }
                Step::Tell => self.say(None),
                Step::Pass(up, down) => {
                    (0..up).for_each(|_| self.up());
                    (0..down).for_each(|_| self.down());
                }
                Step::Acknowledge => self.up.push_back(Up::Received(self.received.len() as u64)),
                Step::Answer => {
                    if let Some(request) = self.doing.pop_front() {
                        self.say(Some(request));
                    }
                }
                Step::Break => self.reconnect(),
            }
        }
    }

    proptest! {
        /// Over any pattern of losses every message arrives once and in order, every request is done once and in order,
        /// and nothing is kept that was acknowledged.
        #[test]
        fn over_any_losses_everything_arrives_once_and_in_order(steps in proptest::collection::vec(step(), 0..200)) {
            let mut world = World {
                line: Outgoing::new(1000),
                up: VecDeque::new(),
                down: VecDeque::new(),
                doing: VecDeque::new(),
                done: Vec::new(),
                said: Vec::new(),
                received: Vec::new(),
                unanswered: Vec::new(),
                answers: std::collections::BTreeMap::new(),
                last_request: 0,
                last_message: 0,
            };
            for at in steps {
                world.step(at);
            }
            world.step(Step::Break);
            while !world.up.is_empty() || !world.down.is_empty() || !world.doing.is_empty() {
                world.step(Step::Pass(1, 1));
                world.step(Step::Answer);
            }
            prop_assert_eq!(&world.received, &world.said);
            let asked: Vec<_> = (1..=world.last_request).map(RequestId).collect();
            prop_assert_eq!(&world.done, &asked);
            prop_assert!(world.unanswered.is_empty());
            world.step(Step::Acknowledge);
            world.step(Step::Pass(1, 0));
            prop_assert_eq!((world.line.kept(), world.line.known.len()), (0, 0));
        }
    }
}
