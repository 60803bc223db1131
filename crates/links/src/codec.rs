//! gRPC messages as JSON. The messages of rooms hold what clients sent, of any shape; JSON carries all of it, says what
//! it is, and ignores fields that an older node does not know.

use std::marker::PhantomData;

use bytes::{Buf, BufMut};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

/// A session is thousands of streams' neighbour and says little: a small buffer each, which grows where it must. Up to
/// 32 kB of messages that are ready go out at once.
fn buffer() -> BufferSettings {
    BufferSettings::new(1024, 32 * 1024)
}

/// Encodes `E`, decodes `D`.
#[derive(Debug)]
pub(crate) struct Json<E, D>(PhantomData<fn(E) -> D>);

impl<E, D> Json<E, D> {
    pub(crate) fn new() -> Self {
        Self(PhantomData)
    }
}

/// One direction of [`Json`].
#[derive(Debug)]
pub(crate) struct Way<T>(PhantomData<fn(T) -> T>);

impl<E, D> Codec for Json<E, D>
where
    E: Serialize + Send + 'static,
    D: DeserializeOwned + Send + 'static,
{
    type Encode = E;
    type Decode = D;
    type Encoder = Way<E>;
    type Decoder = Way<D>;

    fn encoder(&mut self) -> Way<E> {
        Way(PhantomData)
    }

    fn decoder(&mut self) -> Way<D> {
        Way(PhantomData)
    }
}

impl<T: Serialize> Encoder for Way<T> {
    type Item = T;
    type Error = Status;

    fn buffer_settings(&self) -> BufferSettings {
        buffer()
    }

    fn encode(&mut self, item: T, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        serde_json::to_writer(into.writer(), &item).map_err(|error| Status::internal(error.to_string()))
    }
}

impl<T: DeserializeOwned> Decoder for Way<T> {
    type Item = T;
    type Error = Status;

    fn buffer_settings(&self) -> BufferSettings {
        buffer()
    }

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<T>, Status> {
        let message = serde_json::from_reader(from.reader());
        message.map(Some).map_err(|error| Status::invalid_argument(error.to_string()))
    }
}
