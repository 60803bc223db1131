//! Tests of the real worker process, from outside: over its channel and its UDP port, with real ICE, DTLS and SRTP.

mod channel;
mod datagrams;
mod forward;
mod hostile;
mod support;
