//! The inputs → where they are cut into shards, and about how many tokens a byte on disk gives.
//!
//! Sixteen samples of a quarter of a megabyte, evenly spread, so that the estimate follows from the
//! inputs alone; the estimate decides only how many shards there are.

use super::separators;
use crate::encode::Tokenizer;
use crate::error::Result;
use crate::progress::Progress;
use crate::special_tokens::SpecialHandling;
use crate::text_source::{Content, Cut, Slice, TextSource};

/// So many samples, of so much text.
const SAMPLES: u64 = 16;
const SAMPLE_BYTES: u64 = 256 << 10;
/// The cache of the one thread that encodes them.
const CACHE_BYTES: usize = 4 << 20;

/// The `count + 1` cuts, at document ends, that divide `source` into `count` shards.
pub fn shard_cuts(
    tokenizer: &Tokenizer,
    source: &TextSource,
    special: SpecialHandling,
    count: usize,
    progress: &Progress,
) -> Result<Vec<Cut>> {
    let (separator, specials) = separators(tokenizer, special);
    source.document_cuts(count, separator, &specials, progress)
}

/// Encodes samples of `source`: how many tokens, of how many bytes on disk.
pub fn sample(
    tokenizer: &Tokenizer,
    source: &TextSource,
    special: SpecialHandling,
    progress: &Progress,
) -> Result<(u64, u64)> {
    let (mut tokens, mut bytes) = (0, 0);
    let mut scratch = tokenizer.scratch_with(CACHE_BYTES)?;
    let mut slice = Slice::default();
    let mut ids = Vec::new();
    for place in 0..SAMPLES {
        let Some(part) = source.sample(place, SAMPLES, SAMPLE_BYTES, progress)? else { continue };
        let read = Progress::default();
        let slices = part.source.slices(tokenizer.cuts(special), None, &read);
        let mut text_bytes = 0;
        while (part.bytes.is_some() || text_bytes < SAMPLE_BYTES) && slices.next(&mut slice)? {
            progress.check()?;
            for piece in slice.pieces() {
                ids.clear();
                match piece.content {
                    Content::Text(text) => {
                        tokenizer.encode_checked(
                            text,
                            special,
                            &mut scratch,
                            &mut ids,
                            progress,
                        )?;
                        text_bytes += text.len() as u64;
                    }
                    Content::Byte(_) => ids.push(0),
                }
                tokens += ids.len() as u64;
            }
        }
        // Of a compressed file, what was read so far; of others all of the part.
        bytes += part.bytes.unwrap_or_else(|| read.read().1);
    }
    Ok((tokens, bytes))
}
