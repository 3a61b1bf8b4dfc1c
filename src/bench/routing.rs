//! Routing without a model: experts that tokens visit evenly, or as those of text do. Pure.
//!
//! As in text, the logits of the router are sums of what all tokens have in common, of a topic that lasts a while, of the token
//! and of noise. With these shares the 32, 64, 128 and 256 most popular of 512 experts hold about 25, 40, 61 and 85 % of the
//! visits, and LRU with 128 slots hits 82 %: what is published for Qwen3-Next.

use crate::base::random::SplitMix64;
use crate::bench::synthetic::Routing;
use crate::compute::experts::Ranking;
use crate::model::experts::trace::{Header, LayerHeader, Trace};

/// Shares of the variance of a logit: of all tokens, of a topic, of a token, of noise.
const SHARES: [f32; 4] = [0.08, 0.45, 0.37, 0.1];
/// Tokens that a topic lasts.
const TOPIC_TOKENS: usize = 50;
const TOPICS: u64 = 64;
/// Different tokens; the n-th is drawn as often as 1 / n.
const VOCAB: usize = 4096;

/// A token, and what it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    pub id: u32,
    topic: u64,
}

/// Draws tokens.
#[derive(Clone, Debug)]
pub struct Writer {
    numbers: SplitMix64,
    topic: u64,
    /// Tokens until the topic changes.
    left: usize,
    /// Sums of the frequencies of the tokens up to each.
    frequencies: Vec<f32>,
}

/// Says which experts tokens visit.
#[derive(Clone, Debug)]
pub struct Router {
    routing: Routing,
    /// See [`Router::spread`].
    spread: f32,
    layer: LayerHeader,
    /// Experts that it tells of each token: those that it visits, and the next ones.
    ranked: usize,
    seed: u64,
    noise: SplitMix64,
    /// For each layer what tokens have in common.
    common: Vec<Vec<f32>>,
}

impl Writer {
    pub fn new(seed: u64) -> Self {
        let mut sum = 0.0;
        let frequencies = (1..=VOCAB).map(|rank| {
            sum += 1.0 / rank as f32;
            sum
        });
        Self { numbers: SplitMix64(seed), topic: 0, left: 0, frequencies: frequencies.collect() }
    }

    /// Another document, about something else.
    pub fn turn(&mut self) {
        self.left = 0;
    }

    /// The next tokens.
    pub fn write(&mut self, count: usize) -> Vec<Token> {
        (0..count).map(|_| self.token()).collect()
    }

    fn token(&mut self) -> Token {
        if self.left == 0 {
            (self.topic, self.left) = (self.numbers.bits() % TOPICS, TOPIC_TOKENS);
        }
        self.left -= 1;
        let all = self.frequencies.last().copied().unwrap_or_default();
        let at = all * self.numbers.uniform();
        let id = self.frequencies.partition_point(|&sum| sum <= at).min(VOCAB - 1);
        Token { id: id as u32, topic: self.topic }
    }
}

impl Router {
    /// Of `layers` layers that are alike; tells `ranked` experts of each token.
    pub fn new(routing: Routing, layer: LayerHeader, ranked: usize, layers: usize, seed: u64) -> Self {
        let common = |index: usize| values(seed, [index as u64, 0, 0], SHARES[0], layer.experts);
        let noise = SplitMix64(seed);
        let common = (0..layers).map(common).collect();
        Self { routing, spread: 1.0, layer, ranked, seed, noise, common }
    }

    /// The same where tokens of a topic differ more than those of text, or with less than 1 not as much: from 0, where all visit
    /// the same experts, to far above 1, where they visit any.
    pub fn spread(self, spread: f32) -> Self {
        Self { spread, ..self }
    }

    /// The experts of tokens in each layer, `[tokens, ranked]`.
    pub fn pass(&mut self, tokens: &[Token]) -> Vec<Vec<u32>> {
        let of_layer =
            |this: &mut Self, index| tokens.iter().flat_map(|&token| this.visited(index, token)).collect();
        (0..self.common.len()).map(|index| of_layer(self, index)).collect()
    }

    fn visited(&mut self, index: usize, token: Token) -> Vec<u32> {
        let LayerHeader { experts, .. } = self.layer;
        let noise = self.noise.bits();
        let logits: Vec<f32> = match self.routing {
            Routing::Uniform => values(noise, [0; 3], 1.0, experts),
            Routing::Text => {
                let topic = values(self.seed, [index as u64, 1, token.topic], SHARES[1], experts);
                let own = values(self.seed, [index as u64, 2, token.id.into()], SHARES[2], experts);
                let noise = values(noise, [0; 3], SHARES[3], experts);
                let parts = self.common[index].iter().zip(topic).zip(own).zip(noise);
                let spread = self.spread;
                parts
                    .map(|(((common, topic), own), noise)| common + topic + spread * (own + spread * noise))
                    .collect()
            }
        };
        let mut order: Vec<u32> = (0..experts as u32).collect();
        let by_logit = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]);
        if self.ranked < experts {
            order.select_nth_unstable_by(self.ranked, by_logit);
        }
        order.truncate(self.ranked);
        order.sort_unstable_by(by_logit);
        order
    }
}

/// Values of this variance that depend on the seed and on what they are of.
fn values(seed: u64, of: [u64; 3], variance: f32, count: usize) -> Vec<f32> {
    let key = of.iter().fold(seed, |key, &part| SplitMix64(key.wrapping_mul(31).wrapping_add(part)).bits());
    let mut numbers = SplitMix64(key);
    let scale = (3.0 * variance).sqrt();
    // The sum of four uniform numbers is normal enough.
    let value = |bits: u64| {
        let sum: u64 = (0..4).map(|part| bits >> (16 * part) & 0xffff).sum();
        scale * (sum as f32 / 65_536.0 - 2.0)
    };
    (0..count).map(|_| value(numbers.bits())).collect()
}

/// What a session of an editor asks: passes, the tokens of each, and which of them begin with another document.
pub struct Requests {
    pub trace: Trace,
    /// Of each pass the tokens.
    pub ids: Vec<Vec<u32>>,
}

/// Requests of which every fourth begins with another document.
const DOCUMENT_EVERY: usize = 4;
/// Tokens of a prompt of which nothing is known, of one that continues, and of an answer.
const DOCUMENT_TOKENS: usize = 256;
const MORE_TOKENS: usize = 8;
const ANSWER_TOKENS: usize = 24;

/// Draws `count` requests to a model of `layers` layers that are alike.
pub fn requests(routing: Routing, layer: LayerHeader, layers: usize, count: usize) -> Requests {
    let ranked = Ranking::depth(layer.top_k, layer.experts);
    let (mut writer, mut router) = (Writer::new(1), Router::new(routing, layer, ranked, layers, 2));
    let (mut passes, mut ids) = (Vec::new(), Vec::new());
    let mut pass = |tokens: Vec<Token>| {
        passes.push(router.pass(&tokens));
        ids.push(tokens.iter().map(|token| token.id).collect());
    };
    for request in 0..count {
        if request % DOCUMENT_EVERY == 0 {
            writer.turn();
            pass(writer.write(DOCUMENT_TOKENS));
        } else {
            pass(writer.write(MORE_TOKENS));
        }
        (0..ANSWER_TOKENS).for_each(|_| pass(writer.write(1)));
    }
    Requests { trace: Trace::new(Header::new(0, vec![layer; layers]), passes), ids }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::experts::policy::{Counted, LayerCache, Policy};

    const LAYER: LayerHeader = LayerHeader { experts: 512, top_k: 10, record_bytes: 1 };

    /// Share of the visits to the most popular experts, and of those that hit with 128 slots by LRU.
    fn statistics(routing: Routing) -> ([f64; 4], f64) {
        let tokens = Writer::new(7).write(1500);
        let visits = Router::new(routing, LAYER, 10, 1, 3).pass(&tokens).remove(0);
        let mut counts = vec![0usize; 512];
        visits.iter().for_each(|&expert| counts[expert as usize] += 1);
        counts.sort_by(|a, b| b.cmp(a));
        let held = |most: usize| counts[..most].iter().sum::<usize>() as f64 / visits.len() as f64;
        let lru = Policy { half_life: 0.0, counted: Counted::Visits, inserts_max: Policy::ALL };
        let mut cache = LayerCache::new(lru, 512, 128);
        let (mut hits, mut seen) = (0, 0);
        for (token, experts) in visits.chunks(10).enumerate() {
            if token >= 300 {
                hits += experts.iter().filter(|&&expert| cache.slot(expert).is_some()).count();
                seen += 10;
            }
            cache.visit(Ranking::of_visits(10, experts)).into_iter().for_each(|insert| cache.fill(insert));
        }
        ([32, 64, 128, 256].map(held), hits as f64 / seen as f64)
    }

    #[test]
    fn text_is_routed_as_published() {
        let (held, hits) = statistics(Routing::Text);
        for (found, expected) in held.into_iter().zip([0.25, 0.40, 0.61, 0.85]) {
            assert!((found - expected).abs() < 0.04, "{held:?}");
        }
        assert!((0.77..=0.86).contains(&hits), "{hits}");
        let (held, hits) = statistics(Routing::Uniform);
        assert!(held[3] < 0.6 && (hits - 0.25).abs() < 0.03, "{held:?}, {hits}");
    }

    #[test]
    fn requests_are_documents_and_what_continues_them() {
        let requests = requests(Routing::Text, LAYER, 2, 5);
        let lengths: Vec<usize> = requests.ids.iter().map(Vec::len).filter(|&len| len > 1).collect();
        assert_eq!(lengths, [256, 8, 8, 8, 256]);
        for (pass, ids) in requests.trace.passes.iter().zip(&requests.ids) {
            assert_eq!((pass.len(), pass[0].len()), (2, 40 * ids.len()));
            assert_ne!(pass[0], pass[1]);
        }
    }
}
