//! The map from the extended sequence numbers of a producer's stream to the contiguous numbers that one
//! consumer sends, with drops (temporal layers, paused time) and switches (another simulcast stream).
//!
//! It promises what SRTP needs: no two inputs ever get the same output, whatever the order of calls.

/// The map for RTP sequence numbers: remembers drops among the newest 4,096 inputs (about four seconds of a
/// 10 Mbit/s stream; later a repeat is of no use).
pub type SeqMapper = Mapper<64>;

/// Maps extended input numbers to contiguous extended output numbers.
///
/// It remembers which of the newest `WORDS * 64` inputs were dropped. Inputs that were neither mapped
/// nor dropped (lost before they came here) keep a place, so that the receiver sees the gap and can ask
/// for them.
///
/// Outputs start at the number given to [`Mapper::new`] and never fall below it. Given a 16-bit start, an
/// output is the SRTP packet index (ROC ‖ SEQ, RFC 3711, section 3.3.1) of the packet.
#[derive(Clone, Debug)]
pub struct Mapper<const WORDS: usize> {
    /// What the next new stream's first input becomes, as long as nothing is in progress.
    next_output: u64,
    span: Option<Span>,
    /// Bit `input % (WORDS * 64)` is set when that input was dropped; only inputs of the current span
    /// that are not older than the window count. There from the first drop on: most streams have none.
    dropped: Option<Box<[u64; WORDS]>>,
}

/// What is mapped between two switches.
#[derive(Clone, Copy, Debug)]
struct Span {
    first_input: u64,
    first_output: u64,
    newest_input: u64,
    newest_mapped: Option<u64>,
    /// Drops among the inputs from `first_input` to `newest_input`.
    drops: u64,
}

impl<const WORDS: usize> Mapper<WORDS> {
    const WINDOW: u64 = (WORDS as u64).wrapping_mul(64);

    /// A map whose first output will be `first_output`.
    #[must_use]
    pub const fn new(first_output: u64) -> Self {
        const { assert!(WORDS > 0, "the window holds at least one word") };
        Self { next_output: first_output, span: None, dropped: None }
    }

    /// Starts over with another input stream (or the same one after a pause): `first_input` becomes the
    /// output that follows the newest one so far, and inputs before it are refused.
    pub fn sync(&mut self, first_input: u64) {
        self.span = Some(Span {
            first_input,
            first_output: self.next_output,
            newest_input: first_input,
            newest_mapped: None,
            drops: 0,
        });
        self.forget_drops();
    }

    /// Takes `input` out of the output's numbering. Without effect (the receiver will see a gap) when a
    /// newer input has been mapped already, or when `input` precedes the switch.
    pub fn drop_input(&mut self, input: u64) {
        if self.span.is_none() {
            self.sync(input);
        }
        let Some(mut span) = self.span else { return };
        let too_late = span.newest_mapped.is_some_and(|newest| input <= newest);
        if too_late || input < span.first_input || self.is_forgotten(&span, input) {
            return;
        }
        self.advance(&mut span, input);
        if !self.is_dropped(input) {
            self.set_dropped(input);
            span.drops = span.drops.wrapping_add(1);
        }
        self.span = Some(span);
    }

    /// The output for `input`; the same input always gives the same output. `None` when it was dropped,
    /// precedes the last switch, or is older than the window. The first input of all starts the map.
    pub fn map(&mut self, input: u64) -> Option<u64> {
        if self.span.is_none() {
            self.sync(input);
        }
        let mut span = self.span?;
        if input < span.first_input || self.is_forgotten(&span, input) {
            return None;
        }
        self.advance(&mut span, input);
        if self.is_dropped(input) {
            return None;
        }
        let output = self.output_of(&span, input);
        span.newest_mapped = Some(span.newest_mapped.map_or(input, |newest| newest.max(input)));
        self.next_output = self.next_output.max(output.wrapping_add(1));
        self.span = Some(span);
        Some(output)
    }

    /// The input behind an output of the current stream (since the last switch): what a NACK asks for.
    /// `None` when there was none, or it is older than the window.
    #[must_use]
    pub fn input_of(&self, output: u64) -> Option<u64> {
        let span = self.span?;
        if output < span.first_output || output >= self.next_output {
            return None;
        }
        let offset = output.wrapping_sub(span.first_output);
        // With no drop below it the input would be here; every drop below moves it up, at most to the newest.
        let mut low = span.first_input.wrapping_add(offset);
        let mut high = low.wrapping_add(span.drops).min(span.newest_mapped?);
        low = low.max(span.newest_input.saturating_sub(Self::WINDOW.wrapping_sub(1)));
        // Outputs rise with inputs: look for the last input whose place is not past the asked one.
        while low < high {
            let middle = low.wrapping_add(high.wrapping_sub(low).div_ceil(2));
            if self.output_of(&span, middle) <= output {
                low = middle;
            } else {
                high = middle.wrapping_sub(1);
            }
        }
        // Of a run of dropped inputs and the kept one after it, all have the same place: the kept one
        // comes last.
        let found = low == high && !self.is_dropped(low) && self.output_of(&span, low) == output;
        found.then_some(low)
    }

    /// The newest output given since the last switch.
    #[must_use]
    pub fn newest_output(&self) -> Option<u64> {
        self.span.and_then(|span| span.newest_mapped)?;
        self.next_output.checked_sub(1)
    }

    /// What the next new input would become if the stream were switched now.
    #[must_use]
    pub const fn next_output(&self) -> u64 {
        self.next_output
    }

    /// The newest input seen since the last switch, mapped or dropped.
    #[must_use]
    pub fn newest_input(&self) -> Option<u64> {
        self.span.map(|span| span.newest_input)
    }

    fn is_forgotten(&self, span: &Span, input: u64) -> bool {
        span.newest_input.saturating_sub(input) >= Self::WINDOW
    }

    /// Moves the window so that it ends at `input`, if that is new.
    fn advance(&mut self, span: &mut Span, input: u64) {
        if input <= span.newest_input {
            return;
        }
        if input.wrapping_sub(span.newest_input) >= Self::WINDOW {
            self.forget_drops();
        } else if self.dropped.is_some() {
            // A jump is short and rare, the usual step is one: bit by bit is fastest where it matters.
            let mut next = span.newest_input;
            while next < input {
                next = next.wrapping_add(1);
                self.clear_dropped(next);
            }
        }
        span.newest_input = input;
    }

    /// The place of `input` (not forgotten, not ahead of the newest).
    fn output_of(&self, span: &Span, input: u64) -> u64 {
        let drops_above = if span.drops == 0 { 0 } else { self.dropped_from(input, span.newest_input) };
        let drops_below = span.drops.wrapping_sub(drops_above);
        let offset = input.wrapping_sub(span.first_input).wrapping_sub(drops_below);
        span.first_output.wrapping_add(offset)
    }

    /// How many inputs from `from` to `to` inclusive (less than a window apart) were dropped.
    fn dropped_from(&self, from: u64, to: u64) -> u64 {
        let mut count = 0_u64;
        let mut next = from;
        while next <= to {
            // One word a step: the bits from `next` up to the end of its word or `to`.
            let shift = next % 64;
            let last_in_word = next | 63;
            let beyond = last_in_word.saturating_sub(to);
            let mask = (u64::MAX << shift) & (u64::MAX.checked_shr(beyond as u32).unwrap_or(0));
            count = count.wrapping_add(u64::from((self.word(next) & mask).count_ones()));
            let Some(following) = last_in_word.checked_add(1) else { break };
            next = following;
        }
        count
    }

    fn index(input: u64) -> usize {
        (input / 64).checked_rem(WORDS as u64).unwrap_or(0) as usize
    }

    fn bit(input: u64) -> u64 {
        1_u64.rotate_left((input % 64) as u32)
    }

    fn word(&self, input: u64) -> u64 {
        self.dropped.as_ref().and_then(|words| words.get(Self::index(input))).copied().unwrap_or(0)
    }

    fn is_dropped(&self, input: u64) -> bool {
        self.word(input) & Self::bit(input) != 0
    }

    fn set_dropped(&mut self, input: u64) {
        let words = self.dropped.get_or_insert_with(|| Box::new([0; WORDS]));
        if let Some(word) = words.get_mut(Self::index(input)) {
            *word |= Self::bit(input);
        }
    }

    fn forget_drops(&mut self) {
        if let Some(words) = &mut self.dropped {
            **words = [0; WORDS];
        }
    }

    fn clear_dropped(&mut self, input: u64) {
        if let Some(word) = self.dropped.as_mut().and_then(|words| words.get_mut(Self::index(input))) {
            *word &= !Self::bit(input);
        }
    }
}
