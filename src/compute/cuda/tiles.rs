//! The visits of a pass by expert, in tiles that a kernel computes with together. Pure.

use std::ops::Range;

/// Most rows of a tile: as `TILE_ROWS` of the kernels.
pub(super) const TILE_ROWS: usize = 32;

/// Visits of one expert as kernels take them; see `Rows` of `group.cuh`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Tile {
    /// Where the expert is.
    place: i32,
    /// The first of its visits in their order.
    first: i32,
    count: i32,
    unused: i32,
}

impl Tile {
    /// As it lies in memory.
    pub(super) fn to_bytes(self) -> [u8; size_of::<Self>()] {
        let mut bytes = [0; size_of::<Self>()];
        let words = [self.place, self.first, self.count, self.unused];
        for (out, word) in bytes.as_chunks_mut().0.iter_mut().zip(words) {
            *out = word.to_ne_bytes();
        }
        bytes
    }
}

/// Who visits which expert.
pub(super) struct Visitors {
    /// Visits, numbered as they are in `[rows, top_k]`: those of expert 0, then those of expert 1 and so on.
    pub order: Vec<u32>,
    /// Where the visits of each expert end in their order.
    ends: Vec<usize>,
}

impl Visitors {
    /// Of the experts that rows have chosen, each of which is below `experts`.
    pub(super) fn new(chosen: &[u32], experts: usize) -> Self {
        let mut next = vec![0; experts];
        chosen.iter().for_each(|&expert| next[expert as usize] += 1);
        let mut start = 0;
        for next in &mut next {
            start += *next;
            *next = start - *next;
        }
        let mut order = vec![0; chosen.len()];
        for (visit, &expert) in chosen.iter().enumerate() {
            let at = &mut next[expert as usize];
            order[*at] = visit as u32;
            *at += 1;
        }
        Self { order, ends: next }
    }

    /// The experts that are visited, ascending.
    pub(super) fn experts(&self) -> impl Iterator<Item = u32> {
        (0..self.ends.len() as u32).filter(|&expert| !self.range(expert).is_empty())
    }

    /// The visits to experts with the places that these have. Experts without visits have no tiles.
    pub(super) fn tiles(&self, placed: impl Iterator<Item = (u32, usize)>) -> Vec<Tile> {
        let tiles = placed.flat_map(|(expert, place)| {
            let Range { start, end } = self.range(expert);
            (start..end).step_by(TILE_ROWS).map(move |first| Tile {
                place: place as i32,
                first: first as i32,
                count: TILE_ROWS.min(end - first) as i32,
                unused: 0,
            })
        });
        tiles.collect()
    }

    fn range(&self, expert: u32) -> Range<usize> {
        let expert = expert as usize;
        let start = if expert == 0 { 0 } else { self.ends[expert - 1] };
        start..self.ends[expert]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::random::Mmix;

    #[test]
    fn visits_are_grouped_by_expert() {
        let visitors = Visitors::new(&[3, 1, 1, 0, 3, 1], 5);
        assert_eq!(visitors.order, [3, 1, 2, 5, 0, 4]);
        assert_eq!(visitors.experts().collect::<Vec<_>>(), [0, 1, 3]);
        assert_eq!([1, 3, 4].map(|expert| visitors.range(expert)), [1..4, 4..6, 6..6]);
        let tile = |place, first, count| Tile { place, first, count, unused: 0 };
        let tiles = visitors.tiles([(3, 7), (2, 8), (0, 9)].into_iter());
        assert_eq!(tiles, [tile(7, 4, 2), tile(9, 0, 1)], "in the order of the places");
        assert_eq!(tile(7, -1, 2).to_bytes()[4..12], [255, 255, 255, 255, 2, 0, 0, 0]);
    }

    #[test]
    fn tiles_cover_each_visit_once() {
        let mut random = Mmix(5);
        let chosen: Vec<u32> = (0..500).map(|_| random.below(9) as u32).collect();
        let visitors = Visitors::new(&chosen, 9);
        let mut seen = vec![0; chosen.len()];
        for tile in visitors.tiles((0..9).map(|expert| (expert, 20 + expert as usize))) {
            assert!((1..=TILE_ROWS as i32).contains(&tile.count));
            for at in tile.first..tile.first + tile.count {
                let visit = visitors.order[at as usize] as usize;
                assert_eq!(chosen[visit] + 20, tile.place as u32);
                seen[visit] += 1;
            }
        }
        assert!(seen.iter().all(|&count| count == 1));
    }
}
