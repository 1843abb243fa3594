//! Merges ↔ ranks: when a list of merges and a list of ranks give the same ids.
//!
//! By the rank rule any two tokens merge whose concatenation is one, the smallest id first. Let T be a
//! token that forms somewhere in a text. No merge before crossed its ends, so within them the merges
//! were those of T's bytes alone: T's last merge is always the same, and is found by merging its bytes.
//! So a rank file has one merge a token, *the* merge of it, and these in the order of ids give the
//! same ids ([`merges_of`]). A token that its own bytes do not merge into never forms; as a whole
//! pretoken it is taken all the same, which is what `ignore_merges` says of a list.
//!
//! The other way ([`refusal`]) a list must hold the merge of each token, in the order of ids. Whatever
//! else it holds never happens by the rank rule, and must not happen by the list. A pair that stands
//! behind the merge of the token it makes never does: the rank rule finds that merge, or one of a
//! smaller id, in the same text. One that stands before it, but behind those of smaller ids, could
//! happen only where x, y, z stand side by side, xy being the merge and yz the pair, provided that
//! tokens come after their parts, so that nothing else can part y and z. Merging xyz tells whether
//! they ever stand so.

use rustc_hash::FxHashMap;

use crate::error::{Error, Result};
use crate::merge::{Merger, NO_MERGE};
use crate::special_tokens::SpecialTokens;
use crate::vocabulary::{Merge, MergeRule, Vocabulary, printable};

/// Merging is watched symbol by symbol, which takes the square of this many steps.
const LONGEST: usize = 1 << 14;

/// What a rank vocabulary is as a list of merges.
#[derive(Debug, PartialEq, Eq)]
pub struct Derived {
    /// The merge of each token that has one, by rising id of that token.
    pub merges: Vec<Merge>,
    /// The tokens of several bytes that no merges make; they count as whole pretokens only.
    pub unmade: Vec<u32>,
}

/// The merges of the tokens of `vocabulary` by the rank rule, whatever its own rule; special tokens
/// take no part.
pub fn merges_of(vocabulary: &Vocabulary, specials: &SpecialTokens) -> Result<Derived> {
    let (derived, _) = derive(vocabulary, specials)?;
    Ok(derived)
}

fn derive(vocabulary: &Vocabulary, specials: &SpecialTokens) -> Result<(Derived, Merger)> {
    let ranks = Vocabulary::from_ranks(vocabulary.iter())?;
    let merger = Merger::new(&ranks, specials);
    let mut derived = Derived { merges: Vec::new(), unmade: Vec::new() };
    for (id, token) in ranks.iter().filter(|(id, _)| !specials.is_special(*id)) {
        if token.len() < 2 {
            continue;
        }
        if token.len() > LONGEST {
            let why = format!("token {id} has {} bytes, too many to find its merge", token.len());
            return Err(Error::Usage(why));
        }
        let mut last = None;
        merge_watched(&merger, token, |symbols| {
            if let [left, right] = *symbols {
                last = Some((left, right));
            }
        });
        match last.filter(|&(left, right)| merger.rank(left, right) != NO_MERGE) {
            Some((left, right)) => derived.merges.push(Merge { left, right, merged: id }),
            None => derived.unmade.push(id),
        }
    }
    Ok((derived, merger))
}

/// Shows the symbols of `bytes` before each merge, and after the last.
fn merge_watched(merger: &Merger, bytes: &[u8], mut watch: impl FnMut(&[u32])) {
    let mut symbols: Vec<u32> = bytes.iter().map(|&byte| merger.byte_id(byte)).collect();
    loop {
        watch(&symbols);
        let rank_at = |at: usize| merger.rank(symbols[at], symbols[at + 1]);
        let best = (0..symbols.len() - 1).min_by_key(|&at| rank_at(at));
        let Some((at, rank)) = best.map(|at| (at, rank_at(at))).filter(|b| b.1 != NO_MERGE) else {
            return;
        };
        symbols[at] = merger.merged(rank);
        symbols.remove(at + 1);
    }
}

/// Why the ids of `vocabulary`, taken as ranks, would not give the ids that its merges give; `None`
/// where they do.
pub fn refusal(vocabulary: &Vocabulary, specials: &SpecialTokens) -> Result<Option<String>> {
    if *vocabulary.rule() == MergeRule::Ranks {
        return Ok(None);
    }
    if let Some(merge) = vocabulary.merges().iter().find(|m| specials.is_special(m.merged)) {
        return Ok(Some(format!(
            "a merge makes {}, which is a special token and so has no rank",
            name(vocabulary, merge.merged)
        )));
    }
    let (derived, merger) = derive(vocabulary, specials)?;
    if let Some(&id) = derived.unmade.first().filter(|_| !vocabulary.ignores_merges()) {
        return Ok(Some(format!(
            "no merges make {}, but by ranks it is taken where it is a whole word",
            name(vocabulary, id)
        )));
    }
    // Of a pair that is listed twice the later place counts.
    let places: FxHashMap<(u32, u32), usize> =
        (0..).zip(vocabulary.merges()).map(|(at, m)| ((m.left, m.right), at)).collect();
    if let Some(why) = disorder(vocabulary, &derived, &places) {
        return Ok(Some(why));
    }
    Ok(early_pair(vocabulary, &derived, &places, &merger))
}

/// Why `places` do not hold the derived merges in the order of ids.
fn disorder(
    vocabulary: &Vocabulary,
    derived: &Derived,
    places: &FxHashMap<(u32, u32), usize>,
) -> Option<String> {
    let mut before: Option<(usize, u32)> = None;
    for merge in &derived.merges {
        let Some(&place) = places.get(&(merge.left, merge.right)) else {
            return Some(format!(
                "{} and {} would merge, since {} has a rank, but no merge says so",
                name(vocabulary, merge.left),
                name(vocabulary, merge.right),
                name(vocabulary, merge.merged)
            ));
        };
        if let Some((earlier, id)) = before
            && place < earlier
        {
            return Some(format!(
                "its merges are not in the order of ids: {} is merged after {}",
                name(vocabulary, id),
                name(vocabulary, merge.merged)
            ));
        }
        before = Some((place, merge.merged));
    }
    None
}

/// A pair that is not the merge of its token and stands where it could happen before it.
fn early_pair(
    vocabulary: &Vocabulary,
    derived: &Derived,
    places: &FxHashMap<(u32, u32), usize>,
    merger: &Merger,
) -> Option<String> {
    let token = |id| vocabulary.token(id).unwrap_or_default();
    let place = |merge: &Merge| places[&(merge.left, merge.right)];
    let comes_before = |part: u32, whole: u32| part < whole || token(part).len() == 1;
    let is_sorted = derived.merges.iter().all(|merge| {
        [merge.left, merge.right].iter().all(|&part| comes_before(part, merge.merged))
    });
    for (at, pair) in vocabulary.merges().iter().enumerate() {
        if places[&(pair.left, pair.right)] != at {
            continue;
        }
        // The first derived merge of this token's id, or of a larger one.
        let next = derived.merges.partition_point(|merge| merge.merged < pair.merged);
        let is_late = next == 0 || place(&derived.merges[next - 1]) < at;
        let own = derived.merges.get(next).filter(|merge| merge.merged == pair.merged);
        let is_safe = is_late
            && own.is_none_or(|own| {
                place(own) <= at
                    || is_sorted
                        && (own.right != pair.left
                            || !stand_side_by_side(
                                merger,
                                token,
                                [own.left, own.right, pair.right],
                            ))
            });
        if !is_safe {
            return Some(format!(
                "the merge of {} and {} comes before merges that by ranks come first",
                name(vocabulary, pair.left),
                name(vocabulary, pair.right)
            ));
        }
    }
    None
}

/// Whether three tokens ever stand side by side while their bytes merge by rank.
fn stand_side_by_side<'v>(
    merger: &Merger,
    token: impl Fn(u32) -> &'v [u8],
    three: [u32; 3],
) -> bool {
    let mut found = false;
    merge_watched(merger, &three.map(token).concat(), |symbols| found |= *symbols == three);
    found
}

fn name(vocabulary: &Vocabulary, id: u32) -> String {
    let token = vocabulary.token(id).unwrap_or_default();
    format!("token {id} ({})", printable(token))
}
