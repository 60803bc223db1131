//! Typed tables of objects: a slab per entity, addressed by an index that only fits that entity.

use std::marker::PhantomData;

use slab::Slab;

/// An index of one entity's table.
pub trait Index: Copy {
    /// From the slab's key.
    fn from_usize(key: usize) -> Self;
    /// To the slab's key.
    fn to_usize(self) -> usize;
}

macro_rules! indices {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(u32);

        impl Index for $name {
            fn from_usize(key: usize) -> Self {
                Self(u32::try_from(key).expect("tables are bounded far below 2^32 entries"))
            }

            fn to_usize(self) -> usize {
                self.0 as usize
            }
        }
    )+};
}

indices! {
    /// A socket of the worker.
    SocketIdx,
    /// A WebRtcServer.
    WebRtcServerIdx,
    /// A Router.
    RouterIdx,
    /// A Transport of any kind.
    TransportIdx,
    /// A Producer.
    ProducerIdx,
    /// A Consumer.
    ConsumerIdx,
    /// A DataProducer.
    DataProducerIdx,
    /// A DataConsumer.
    DataConsumerIdx,
    /// An RtpObserver of either kind.
    RtpObserverIdx,
}

/// A slab that is indexed by its own index type.
#[derive(Debug)]
pub struct Table<I, T> {
    slab: Slab<T>,
    index: PhantomData<I>,
}

impl<I, T> Default for Table<I, T> {
    fn default() -> Self {
        Self { slab: Slab::new(), index: PhantomData }
    }
}

impl<I: Index, T> Table<I, T> {
    /// The index that the next inserted value gets.
    pub fn next_index(&self) -> I {
        I::from_usize(self.slab.vacant_key())
    }

    /// Adds a value.
    pub fn insert(&mut self, value: T) -> I {
        I::from_usize(self.slab.insert(value))
    }

    /// Takes a value out, if it is there.
    pub fn remove(&mut self, index: I) -> Option<T> {
        self.slab.try_remove(index.to_usize())
    }

    /// Looks at a value.
    pub fn get(&self, index: I) -> Option<&T> {
        self.slab.get(index.to_usize())
    }

    /// Changes a value.
    pub fn get_mut(&mut self, index: I) -> Option<&mut T> {
        self.slab.get_mut(index.to_usize())
    }

    /// All values with their indices.
    pub fn iter(&self) -> impl Iterator<Item = (I, &T)> {
        self.slab.iter().map(|(key, value)| (I::from_usize(key), value))
    }

    /// All values with their indices, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (I, &mut T)> {
        self.slab.iter_mut().map(|(key, value)| (I::from_usize(key), value))
    }

    /// The index of any value.
    pub fn first(&self) -> Option<I> {
        self.iter().next().map(|(index, _)| index)
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.slab.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.slab.is_empty()
    }
}

impl<I: Index, T> std::ops::Index<I> for Table<I, T> {
    type Output = T;

    fn index(&self, index: I) -> &T {
        &self.slab[index.to_usize()]
    }
}

impl<I: Index, T> std::ops::IndexMut<I> for Table<I, T> {
    fn index_mut(&mut self, index: I) -> &mut T {
        &mut self.slab[index.to_usize()]
    }
}
