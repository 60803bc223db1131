//! Who sits in which room: sizes as Zipf has them, a few large rooms and many small ones.

use crate::source::Shape;

/// People a room on average.
const MEAN_ROOM: usize = 20;
/// A room of one has nothing to receive.
const SMALLEST_ROOM: usize = 2;
/// One in so many of a room publishes, within the following limits.
const ONE_PUBLISHES_IN: usize = 4;
const FEWEST_PUBLISHERS: usize = 2;
const MOST_PUBLISHERS: usize = 8;
/// So many of those show themselves, too; all speak.
const CAMERAS: usize = 2;

/// All rooms, the largest first.
#[derive(Debug)]
pub struct Plan {
    /// The rooms.
    pub rooms: Vec<Room>,
}

/// A room.
#[derive(Debug)]
pub struct Room {
    /// Its id.
    pub name: String,
    /// How many are in it.
    pub peers: usize,
    /// How many of them publish.
    pub publishers: usize,
}

/// A peer's part.
#[derive(Debug, Clone)]
pub struct Place {
    /// Its room.
    pub room: String,
    /// Which of the room's peers it is.
    pub number: usize,
    /// What it sends.
    pub publishes: Vec<Shape>,
    /// How many streams come to it.
    pub receives: usize,
}

impl Place {
    /// The peer's id.
    pub fn name(&self) -> String {
        format!("{}-{}", self.room, self.number)
    }
}

impl Plan {
    /// Rooms for so many peers: the second is half as large as the first, the third a third, and so on.
    pub fn new(peers: usize) -> Self {
        let count = (peers / MEAN_ROOM).max(1);
        let shares: f64 = (1..=count).map(|rank| 1.0 / rank as f64).sum();
        let mut sizes: Vec<usize> = (1..=count)
            .map(|rank| ((peers as f64 / (rank as f64 * shares)) as usize).max(SMALLEST_ROOM))
            .collect();
        // What rounding left over, or took too much, is the largest room's.
        let planned: usize = sizes.iter().sum();
        sizes[0] = (sizes[0] + peers).saturating_sub(planned).max(SMALLEST_ROOM);
        let rooms = sizes.into_iter().enumerate().map(|(at, peers)| Room {
            name: format!("load-{at}"),
            peers,
            publishers: (peers / ONE_PUBLISHES_IN).clamp(FEWEST_PUBLISHERS, MOST_PUBLISHERS),
        });
        Self { rooms: rooms.collect() }
    }

    /// How many publish.
    pub fn publishers(&self) -> usize {
        self.rooms.iter().map(|room| room.publishers).sum()
    }

    /// How many streams arrive somewhere.
    pub fn streams(&self) -> usize {
        self.rooms.iter().map(|room| room.sent() * (room.peers - 1)).sum()
    }

    /// Everybody's part.
    pub fn places(&self) -> Vec<Place> {
        self.rooms.iter().flat_map(Room::places).collect()
    }
}

impl Room {
    /// Streams that its publishers send.
    fn sent(&self) -> usize {
        self.publishers + self.publishers.min(CAMERAS)
    }

    fn places(&self) -> impl Iterator<Item = Place> + '_ {
        (0..self.peers).map(|number| {
            let publishes = match number {
                _ if number >= self.publishers => vec![],
                _ if number < CAMERAS => vec![Shape::AUDIO, Shape::THIN_VIDEO],
                _ => vec![Shape::AUDIO],
            };
            let receives = self.sent() - publishes.len();
            Place { room: self.name.clone(), number, publishes, receives }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_has_a_place_and_large_rooms_are_few() {
        for peers in [2, 100, 500, 2_000, 10_000] {
            let plan = Plan::new(peers);
            let places = plan.places();
            assert_eq!(places.len(), peers);
            assert_eq!(places.iter().map(|place| place.receives).sum::<usize>(), plan.streams());
            assert!(plan.rooms.iter().all(|room| room.peers >= room.publishers));
            assert!(plan.rooms.is_sorted_by(|one, other| one.peers >= other.peers));
        }
        let plan = Plan::new(2_000);
        let large = plan.rooms.iter().filter(|room| room.peers > 100).count();
        assert!((2..=4).contains(&large), "{large} of {} rooms", plan.rooms.len());
    }
}
