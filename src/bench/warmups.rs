//! Whether it pays to bring experts to slots before tokens ask for them, by replay. Pure.
//!
//! After a long prompt, those of its last tokens can take the slots of others: its own experts that were there hold theirs until
//! it is done. And a table can say which experts a token visited last: the next token is known where it was drafted.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;

use crate::compute::experts::policy::{LayerCache, Policy};
use crate::model::experts::trace::{LayerHeader, Trace};

/// Tokens at the end of a prompt whose experts get slots, and the fewest of a prompt of which nothing is known.
pub const LAST_TOKENS: usize = 64;
/// Tokens that are decoded after it, and counted apart.
pub const FIRST_TOKENS: usize = 16;

/// What warm-ups gain at one size of the cache.
#[derive(Clone, Debug, Serialize)]
pub struct WarmUp {
    /// Share of a layer's experts that have a slot.
    pub share: f64,
    /// Hits without one.
    pub without: Hits,
    /// Hits where the experts of the last tokens of a long prompt get slots.
    pub last_tokens: Hits,
    /// Experts that this copies for a prompt and a layer.
    pub copied: f64,
    /// What a table of tokens knows; none where a trace does not say which tokens they were.
    pub table: Option<Table>,
}

/// Shares of the visits of decoded tokens that hit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Hits {
    /// The first tokens after a long prompt.
    pub first: f64,
    pub all: f64,
}

/// What a table says that names the experts of a token's last visit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Table {
    /// Share of the decoded tokens that it knows.
    pub known: f64,
    /// Share of the missing experts that it names.
    pub named: f64,
    /// Experts that it names without need, for each that is needed.
    pub needless: f64,
}

#[derive(Default)]
struct Count {
    first: [usize; 2],
    all: [usize; 2],
    prompts: usize,
    copied: usize,
    tokens: usize,
    known: usize,
    missing: usize,
    named: usize,
    needless: usize,
}

/// Replays a trace with shares of the experts in slots; `ids` are the tokens of each pass, where they are known.
pub fn judge(trace: &Trace, ids: Option<&[Vec<u32>]>, shares: &[f64]) -> Vec<WarmUp> {
    let of_share = |&share: &f64| {
        let [without, warmed] = [false, true].map(|is_warmed| {
            let mut count = Count::default();
            for (index, layer) in trace.header.layers.iter().enumerate() {
                replay(trace, ids, index, layer, share, is_warmed, &mut count);
            }
            count
        });
        let table = ids.is_some().then(|| Table {
            known: ratio(without.known, without.tokens),
            named: ratio(without.named, without.missing),
            needless: ratio(without.needless, without.named),
        });
        let copied = ratio(warmed.copied, warmed.prompts);
        WarmUp { share, without: without.hits(), last_tokens: warmed.hits(), copied, table }
    };
    shares.iter().map(of_share).collect()
}

fn ratio(part: usize, whole: usize) -> f64 {
    part as f64 / whole.max(1) as f64
}

impl Count {
    fn hits(&self) -> Hits {
        let [first, all] = [self.first, self.all].map(|[hits, visits]| ratio(hits, visits));
        Hits { first, all }
    }
}

fn replay(
    trace: &Trace,
    ids: Option<&[Vec<u32>]>,
    index: usize,
    layer: &LayerHeader,
    share: f64,
    is_warmed: bool,
    count: &mut Count,
) {
    let &LayerHeader { experts: all, top_k, .. } = layer;
    let slots = ((all as f64 * share).round() as usize).clamp(top_k, all);
    let mut cache = LayerCache::new(Policy::BEST, all, slots);
    let mut table: BTreeMap<u32, &[u32]> = BTreeMap::new();
    let mut first_left = 0;
    for (number, pass) in trace.passes.iter().enumerate() {
        let ranking = trace.header.ranking(index, &pass[index]);
        let tokens = ranking.rows().len();
        let named = match ids.map(|ids| &ids[number][..]) {
            Some(&[id]) => table.get(&id).copied(),
            _ => None,
        };
        if tokens == 1 {
            let visits: Vec<u32> = ranking.visits().collect();
            let hits = visits.iter().filter(|&&expert| cache.slot(expert).is_some()).count();
            count.all = [count.all[0] + hits, count.all[1] + top_k];
            if first_left > 0 {
                first_left -= 1;
                count.first = [count.first[0] + hits, count.first[1] + top_k];
            }
            let missing: BTreeSet<u32> = cache.missing_of(&visits).into_iter().collect();
            count.tokens += 1;
            count.known += usize::from(named.is_some());
            count.missing += missing.len();
            let absent = named.unwrap_or_default().iter().filter(|&&expert| cache.slot(expert).is_none());
            let (needed, needless): (Vec<u32>, Vec<u32>) =
                absent.partition(|expert| missing.contains(expert));
            count.named += needed.len();
            count.needless += needless.len();
        }
        cache.visit(ranking).into_iter().for_each(|insert| cache.fill(insert));
        let rows = || ranking.rows().map(|row| &row[..top_k]);
        if tokens >= LAST_TOKENS {
            first_left = FIRST_TOKENS;
            if is_warmed {
                let last: Vec<u32> = rows().skip(tokens - LAST_TOKENS).flatten().copied().collect();
                let inserts = cache.admit(&cache.missing_of(&last), Policy::ALL, &[]);
                count.prompts += 1;
                count.copied += inserts.len();
                inserts.into_iter().for_each(|insert| cache.fill(insert));
            }
        }
        if let Some(ids) = ids {
            table.extend(ids[number].iter().copied().zip(rows()));
        }
    }
}

/// Writes what was found as a table.
pub fn write(warm_ups: &[WarmUp], f: &mut fmt::Formatter) -> fmt::Result {
    writeln!(
        f,
        "\nhits of decoded tokens, of the first {FIRST_TOKENS} after a prompt of at least {LAST_TOKENS} and of all; with the experts of \
         its last {LAST_TOKENS} tokens in slots; and what a table of tokens and their last experts names of what is missing\n"
    )?;
    writeln!(
        f,
        "| experts in memory | first | all | warmed: first | all | copies a layer | tokens known | missing named | needless for each |"
    )?;
    writeln!(f, "|---:|---:|---:|---:|---:|---:|---:|---:|---:|")?;
    for WarmUp { share, without, last_tokens, copied, table } in warm_ups {
        let percent = |share: f64| format!("{:.1} %", 100.0 * share);
        let table = table.map_or_else(
            || "not recorded | |".to_owned(),
            |table| format!("{} | {} | {:.1}", percent(table.known), percent(table.named), table.needless),
        );
        writeln!(
            f,
            "| {} | {} | {} | {} | {} | {copied:.1} | {table} |",
            percent(*share),
            percent(without.first),
            percent(without.all),
            percent(last_tokens.first),
            percent(last_tokens.all)
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::experts::trace::Header;

    /// One layer of 128 experts of which a token visits one; a token is as its expert.
    fn trace(passes: &[Vec<u32>]) -> Trace {
        let layer = LayerHeader { experts: 128, top_k: 1, record_bytes: 1 };
        let header = Header { ranks_per_visit: 1, ..Header::new(0, vec![layer]) };
        Trace::new(header, passes.iter().map(|pass| vec![pass.clone()]).collect())
    }

    #[test]
    fn the_last_tokens_of_a_prompt_get_the_slots_of_its_first() {
        // Experts 0 to 3 have the four slots, the prompt visits them and then others 64 times.
        let mut passes: Vec<Vec<u32>> = (0..4).map(|expert| vec![expert]).collect();
        passes.push((0..4).chain((0..64).map(|i| 10 + i % 4)).collect());
        passes.extend((10..14).map(|expert| vec![expert]));
        let found = &judge(&trace(&passes), None, &[4.0 / 128.0])[0];
        assert_eq!((found.without.first, found.last_tokens.first, found.copied), (0.0, 1.0, 4.0));
        assert_eq!((found.without.all, found.last_tokens.all), (0.0, 0.5));
        assert_eq!(found.table, None);
        let short = &judge(&trace(&passes[..4]), None, &[4.0 / 128.0])[0];
        assert_eq!(short.without, short.last_tokens);
    }

    #[test]
    fn a_table_names_what_a_token_visited_last() {
        // Token 1 visits expert 1, then 2, then 2 again; one slot.
        let passes = [vec![1], vec![9], vec![2], vec![9], vec![2]];
        let ids = [vec![1], vec![7], vec![1], vec![7], vec![1]];
        let table = judge(&trace(&passes), Some(&ids), &[1.0 / 128.0])[0].table.unwrap();
        // The third pass is told of expert 1 in vain, the fourth of 9 and the fifth of 2.
        assert_eq!(table, Table { known: 0.6, named: 0.4, needless: 0.5 });
    }
}
