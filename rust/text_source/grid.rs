//! One cell of a large plain file → the text that begins in it.
//!
//! The file is divided into cells of equal size. A cell's text reaches from the first cut in the
//! cell to the first cut in a later one. Both neighbours find the same point from the same bytes,
//! so cells are read by any thread in any order, and none is read twice but for its edges. A cell
//! without a cut has no text of its own: it belongs to an earlier one.

use std::ops::Range;

use super::open::PlainFile;
use super::{Reading, reserve};
use crate::cut::CutRule;
use crate::error::Result;

/// How much is read beyond a cell at first, to find where its text ends.
const LOOK_AHEAD: u64 = 4096;

/// Reads the text of `cell` over `bytes` and says where in the file it stands; None where no text
/// begins in this cell.
pub(super) fn read_cell(
    file: &PlainFile,
    cell: u64,
    bytes: &mut Vec<u8>,
    reading: &Reading<'_>,
) -> Result<Option<Range<u64>>> {
    let cell_bytes = reading.slice_bytes as u64;
    let context = reading.cut.context() as u64;
    let base = (cell * cell_bytes).saturating_sub(context);
    let mut window = Window { file, bytes, filled: 0, base, cell_bytes, context, cut: reading.cut };
    let Some(start) = window.cut_in(cell)? else {
        window.bytes.clear();
        return Ok(None);
    };
    window.start_at(start, cell + 1);
    let end = window.end_after(cell, start, reading)?;
    window.load(end)?;
    if end == file.size {
        file.check_size()?;
    }
    window.keep(start, end);
    Ok(Some(start..end))
}

/// The part of the file that is in memory: from `base` on.
struct Window<'f> {
    file: &'f PlainFile,
    /// What was read, and behind it what an earlier cell left: it need not be zeroed to be read over.
    bytes: &'f mut Vec<u8>,
    filled: usize,
    base: u64,
    cell_bytes: u64,
    context: u64,
    cut: &'f CutRule,
}

impl Window<'_> {
    /// The first cut in `cell`; the start of the file is one.
    fn cut_in(&mut self, cell: u64) -> Result<Option<u64>> {
        if cell == 0 {
            return Ok(Some(0));
        }
        let start = cell * self.cell_bytes;
        let end = (start + self.cell_bytes).min(self.file.size);
        let (mut from, mut step) = (start, LOOK_AHEAD);
        while from < end {
            let to = (from + step).min(end);
            self.load(to.saturating_add(self.context))?;
            if let Some(at) = self.cut.first_break(self.read(), self.place(from)..self.place(to)) {
                return Ok(Some(self.base + at as u64));
            }
            (from, step) = (to, step * 2);
        }
        Ok(self
            .cut
            .first(self.read(), self.place(start)..self.place(end))
            .map(|at| self.base + at as u64))
    }

    /// Where the text that starts at `start` in `cell` ends: the first cut in a later cell.
    fn end_after(&mut self, cell: u64, start: u64, reading: &Reading<'_>) -> Result<u64> {
        let mut next = cell + 1;
        let end = loop {
            let border = next * self.cell_bytes;
            if border >= self.file.size {
                break self.file.size;
            }
            if let Some(cut) = self.cut_in(next)? {
                break cut;
            }
            next += 1;
            reading.progress.check()?;
            self.check_length(start, border.min(self.file.size), reading)?;
        };
        self.check_length(start, end, reading)?;
        Ok(end)
    }

    /// That no stretch without a cut, up to `end`, is longer than a record may be.
    fn check_length(&mut self, start: u64, end: u64, reading: &Reading<'_>) -> Result<()> {
        if end - start <= reading.max_record_bytes {
            return Ok(());
        }
        self.load(end.saturating_add(self.context))?;
        let last = self.cut.last(self.read(), self.place(start) + 1..self.place(end));
        let last = last.map_or(start, |at| self.base + at as u64);
        reading.check_record(&self.file.path, last, end - last)
    }

    fn read(&self) -> &[u8] {
        &self.bytes[..self.filled]
    }

    /// Reads on until the file's bytes up to `end`, or all of them, are in memory.
    fn load(&mut self, end: u64) -> Result<()> {
        let end = self.place(end.min(self.file.size));
        if end > self.filled {
            if end > self.bytes.len() {
                reserve(self.bytes, end - self.bytes.len())?;
                self.bytes.resize(end, 0);
            }
            let from = self.base + self.filled as u64;
            self.file.read_exact_at(&mut self.bytes[self.filled..end], from)?;
            self.filled = end;
        }
        Ok(())
    }

    /// Moves what was read from `start` on to the front, while it is little, unless the search for
    /// a cut in the `next` cell looks at what comes before it.
    fn start_at(&mut self, start: u64, next: u64) {
        if start + self.context <= next * self.cell_bytes {
            let place = self.place(start);
            self.bytes.copy_within(place..self.filled, 0);
            (self.filled, self.base) = (self.filled - place, start);
        }
    }

    fn keep(&mut self, start: u64, end: u64) {
        self.bytes.truncate(self.place(end));
        self.bytes.drain(..self.place(start));
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "a distance within the window, whose bytes are in memory"
    )]
    fn place(&self, offset: u64) -> usize {
        (offset - self.base) as usize
    }
}
