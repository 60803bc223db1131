//! Typed tables of objects: one per entity, addressed by an index that only fits that entity.

use std::marker::PhantomData;

use net::prefetch::prefetch;

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

/// Values that lie side by side and are indexed by their own index type. An index is used again once its value is gone.
#[derive(Debug)]
pub struct Table<I, T> {
    slots: Vec<Slot<T>>,
    /// The slot that is filled next, where that is not a new one.
    free: Option<usize>,
    len: usize,
    index: PhantomData<I>,
}

#[derive(Debug)]
enum Slot<T> {
    /// With the free slot after it.
    Free(Option<usize>),
    Used(T),
}

impl<I, T> Default for Table<I, T> {
    fn default() -> Self {
        Self { slots: Vec::new(), free: None, len: 0, index: PhantomData }
    }
}

impl<I: Index, T> Table<I, T> {
    /// The index that the next inserted value gets.
    pub fn next_index(&self) -> I {
        I::from_usize(self.free.unwrap_or(self.slots.len()))
    }

    /// Adds a value.
    pub fn insert(&mut self, value: T) -> I {
        let index = self.next_index();
        match self.slots.get_mut(index.to_usize()) {
            Some(slot) => {
                if let Slot::Free(next) = std::mem::replace(slot, Slot::Used(value)) {
                    self.free = next;
                }
            }
            None => self.slots.push(Slot::Used(value)),
        }
        self.len += 1;
        index
    }

    /// Takes a value out, if it is there.
    pub fn remove(&mut self, index: I) -> Option<T> {
        let slot = self.slots.get_mut(index.to_usize()).filter(|slot| matches!(slot, Slot::Used(_)))?;
        let Slot::Used(value) = std::mem::replace(slot, Slot::Free(self.free)) else { return None };
        self.free = Some(index.to_usize());
        self.len -= 1;
        Some(value)
    }

    /// Looks at a value.
    #[inline]
    pub fn get(&self, index: I) -> Option<&T> {
        match self.slots.get(index.to_usize()) {
            Some(Slot::Used(value)) => Some(value),
            _ => None,
        }
    }

    /// Changes a value.
    #[inline]
    pub fn get_mut(&mut self, index: I) -> Option<&mut T> {
        match self.slots.get_mut(index.to_usize()) {
            Some(Slot::Used(value)) => Some(value),
            _ => None,
        }
    }

    /// Fetches a value ahead, not what it points to, so that the next look at it does not wait.
    #[inline]
    pub fn prefetch(&self, index: I) {
        self.slots.get(index.to_usize()).into_iter().for_each(prefetch);
    }

    /// All values with their indices.
    pub fn iter(&self) -> impl Iterator<Item = (I, &T)> {
        self.slots.iter().enumerate().filter_map(|(key, slot)| match slot {
            Slot::Used(value) => Some((I::from_usize(key), value)),
            Slot::Free(_) => None,
        })
    }

    /// All values with their indices, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (I, &mut T)> {
        self.slots.iter_mut().enumerate().filter_map(|(key, slot)| match slot {
            Slot::Used(value) => Some((I::from_usize(key), value)),
            Slot::Free(_) => None,
        })
    }

    /// The index of any value.
    pub fn first(&self) -> Option<I> {
        self.iter().next().map(|(index, _)| index)
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl<I: Index, T> std::ops::Index<I> for Table<I, T> {
    type Output = T;

    fn index(&self, index: I) -> &T {
        self.get(index).expect("an index is kept no longer than what it names")
    }
}

impl<I: Index, T> std::ops::IndexMut<I> for Table<I, T> {
    fn index_mut(&mut self, index: I) -> &mut T {
        self.get_mut(index).expect("an index is kept no longer than what it names")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_used_again_once_its_value_is_gone() {
        let mut table: Table<SocketIdx, char> = Table::default();
        let indices = ['a', 'b', 'c'].map(|value| {
            let next = table.next_index();
            assert_eq!(table.insert(value), next);
            next
        });
        assert_eq!(table.remove(indices[0]), Some('a'));
        assert_eq!(table.remove(indices[1]), Some('b'));
        assert_eq!((table.remove(indices[1]), table.get(indices[1]), table.len()), (None, None, 1));
        for value in ['d', 'e', 'f'] {
            let next = table.next_index();
            assert_eq!(table.insert(value), next);
            assert_eq!(table[next], value);
        }
        assert_eq!(table.iter().map(|(_, value)| *value).collect::<String>(), "edcf");
        table.prefetch(SocketIdx(1_000_000));
    }
}
