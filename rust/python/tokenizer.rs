//! `_core.Tokenizer` and the iterators it gives.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use numpy::{IntoPyArray, PyArray1, PyReadonlyArray1};
use pyo3::exceptions::{PyOverflowError, PyUnicodeDecodeError};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use pyo3::types::{PyBytes, PyDict, PyInt, PyIterator, PyList, PyString};

use super::job;
use crate::canonical;
use crate::decode;
use crate::encode::{self, StreamEncoder};
use crate::error::{Error, Result};
use crate::normalize::Normalizer;
use crate::progress::Progress;
use crate::special_tokens::SpecialHandling;
use crate::vocabulary::MergeRule;
use crate::vocabulary_files::{self, Format, NamedToken, TokenizerParts};

/// From so many bytes or ids on the interpreter lock is released.
const SHORT: usize = 1 << 11;
/// From so many bytes or ids on work is done beside the interpreter, so that Ctrl-C is heard.
const LONG: usize = 1 << 20;
/// Bytes of a text handed to the stream encoder at a time.
const STEP: usize = 4096;

/// Special tokens that are asked for, with their ids where those are told.
type Specials = Option<Vec<(String, Option<i64>)>>;

/// The core's tokenizer, and the buffers of its first stream, made with it.
#[pyclass(frozen, module = "lmkit._core")]
pub(super) struct Tokenizer {
    inner: Arc<encode::Tokenizer>,
    stream: Arc<Mutex<Option<StreamEncoder>>>,
    fingerprint: OnceLock<String>,
    numbers: Numbers,
    /// What the file held that is not kept.
    remarks: Vec<String>,
}

/// Python's numbers for ids, each made when it is first given out: to make a number anew takes as
/// long as to encode the token.
#[derive(Default)]
struct Numbers(Mutex<Vec<Option<Py<PyInt>>>>);

impl Numbers {
    /// Ids from here on are made anew each time, so that scattered ones take no memory.
    const MOST: usize = 1 << 18;

    fn list<'py>(&self, py: Python<'py>, ids: &[u32]) -> PyResult<Bound<'py, PyList>> {
        // Another thread may be at it, or have been when this process was forked off.
        let Ok(mut known) = self.0.try_lock() else { return PyList::new(py, ids) };
        let numbers = ids.iter().map(|&id| match known.get(id as usize) {
            Some(Some(number)) => number.bind(py).clone(),
            _ => Self::first(&mut known, py, id),
        });
        PyList::new(py, numbers)
    }

    /// The number of an id that has none yet; out of line, so that the others' loop is short.
    #[cold]
    #[inline(never)]
    fn first<'py>(
        known: &mut Vec<Option<Py<PyInt>>>,
        py: Python<'py>,
        id: u32,
    ) -> Bound<'py, PyInt> {
        let number = id.into_pyobject(py).unwrap_or_else(|never| match never {});
        let place = id as usize;
        if place < Self::MOST {
            if place >= known.len() {
                known.resize_with((place + 1).next_power_of_two(), || None);
            }
            known[place] = Some(number.clone().unbind());
        }
        number
    }
}

impl Tokenizer {
    pub(super) fn wrap(inner: encode::Tokenizer) -> Result<Self> {
        let stream = Arc::new(Mutex::new(Some(inner.stream()?)));
        Ok(Self {
            inner: Arc::new(inner),
            stream,
            fingerprint: OnceLock::new(),
            numbers: Numbers::default(),
            remarks: Vec::new(),
        })
    }

    pub(super) fn inner(&self) -> &Arc<encode::Tokenizer> {
        &self.inner
    }

    fn of(mut parts: TokenizerParts) -> PyResult<Self> {
        let remarks = std::mem::take(&mut parts.remarks);
        Ok(Self { remarks, ..Self::wrap(encode::Tokenizer::from_parts(parts)?)? })
    }
}

fn named(tokens: Specials) -> Result<Option<Vec<NamedToken>>> {
    let checked = |id: i64| u32::try_from(id).map_err(|_| Error::IdOutOfRange { id });
    let each = |(token, id): (String, Option<i64>)| Ok((token, id.map(checked).transpose()?));
    tokens.map(|tokens| tokens.into_iter().map(each).collect()).transpose()
}

#[pymethods]
impl Tokenizer {
    #[new]
    fn new(
        vocab: Vec<(i64, Vec<u8>)>,
        merges: Vec<(Vec<u8>, Vec<u8>)>,
        special_tokens: Vec<String>,
        pattern: String,
    ) -> PyResult<Self> {
        Self::of(TokenizerParts::in_memory(vocab, merges, &special_tokens, pattern)?)
    }

    #[staticmethod]
    fn from_files(
        py: Python<'_>,
        vocab_path: PathBuf,
        merges_path: PathBuf,
        special_tokens: Specials,
        pattern: String,
    ) -> PyResult<Self> {
        py.detach(|| {
            let named = named(special_tokens)?;
            let parts = vocabulary_files::read_pair(&vocab_path, &merges_path, named.as_deref())?;
            Self::of(TokenizerParts { pattern: Some(pattern), ..parts })
        })
    }

    #[staticmethod]
    fn load(
        py: Python<'_>,
        path: PathBuf,
        special_tokens: Specials,
        pattern: Option<String>,
    ) -> PyResult<Self> {
        py.detach(|| {
            let parts = vocabulary_files::read(&path)?;
            Self::of(parts.with(named(special_tokens)?.as_deref(), pattern)?)
        })
    }

    #[staticmethod]
    fn from_json(text: &str) -> PyResult<Self> {
        Self::of(canonical::from_json(text)?)
    }

    fn to_json(&self) -> String {
        canonical::to_json(&self.inner.parts())
    }

    fn save(
        &self,
        py: Python<'_>,
        path: PathBuf,
        format: &str,
        force: bool,
    ) -> PyResult<Option<String>> {
        py.detach(|| {
            let (format, parts) = (Format::new(format)?, self.inner.parts());
            Ok(vocabulary_files::write(&path, format, &parts, self.fingerprint(), force)?)
        })
    }

    fn encode<'py>(
        &self,
        py: Python<'py>,
        text: &Bound<'py, PyString>,
        special: &str,
    ) -> PyResult<Bound<'py, PyList>> {
        let ids = self.ids(py, text, special)?;
        self.numbers.list(py, &ids)
    }

    fn encode_array<'py>(
        &self,
        py: Python<'py>,
        text: &Bound<'py, PyString>,
        special: &str,
    ) -> PyResult<Bound<'py, PyArray1<i32>>> {
        Ok(as_int32(self.ids(py, text, special)?).into_pyarray(py))
    }

    #[expect(clippy::type_complexity, reason = "two arrays in a tuple")]
    fn encode_batch<'py>(
        &self,
        py: Python<'py>,
        texts: Vec<Bound<'py, PyString>>,
        special: &str,
        num_threads: Option<usize>,
    ) -> PyResult<(Bound<'py, PyArray1<i32>>, Bound<'py, PyArray1<i64>>)> {
        let special = handling(special)?;
        let texts = texts.iter().map(borrow).collect::<PyResult<Vec<PyBackedStr>>>()?;
        let texts: Vec<&str> = texts.iter().map(|text| &**text).collect();
        let progress = Progress::default();
        let encode = || self.inner.encode_batch(&texts, special, num_threads, &progress);
        let bytes = texts.iter().map(|text| text.len()).sum();
        let (ids, offsets) = beside(py, bytes, &progress, encode)?;
        Ok((as_int32(ids).into_pyarray(py), offsets.into_pyarray(py)))
    }

    fn encode_iterable<'py>(
        &self,
        texts: &Bound<'py, PyIterator>,
        special: &str,
    ) -> PyResult<EncodeIterator> {
        let special = handling(special)?;
        let kept = self.stream.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut stream = kept.map_or_else(|| self.inner.stream(), Ok)?;
        stream.start(special);
        Ok(EncodeIterator {
            tokenizer: Arc::clone(&self.inner),
            home: Arc::clone(&self.stream),
            stream: Some(stream),
            texts: texts.clone().unbind(),
            text: None,
            at: 0,
            next: 0,
            ended: false,
        })
    }

    fn decode<'py>(
        &self,
        py: Python<'py>,
        ids: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyString>> {
        let bytes = self.bytes_of(py, ids)?;
        // Python checks what it takes over: to check before would be one more pass.
        PyString::from_bytes(py, &bytes).or_else(|error| {
            if !error.is_instance_of::<PyUnicodeDecodeError>(py) {
                return Err(error);
            }
            let text = py.detach(|| decode::text_of(bytes));
            PyString::from_bytes(py, text.as_bytes())
        })
    }

    fn decode_bytes<'py>(
        &self,
        py: Python<'py>,
        ids: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        Ok(PyBytes::new(py, &self.bytes_of(py, ids)?))
    }

    fn stream_decoder(&self) -> StreamDecoder {
        StreamDecoder { tokenizer: Arc::clone(&self.inner), decoder: decode::StreamDecoder::new() }
    }

    fn vocab<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let vocab = PyDict::new(py);
        for (id, token) in self.inner.vocabulary().iter() {
            vocab.set_item(id, PyBytes::new(py, token))?;
        }
        Ok(vocab)
    }

    fn merges<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let vocabulary = self.inner.vocabulary();
        let token = |id| PyBytes::new(py, vocabulary.token(id).unwrap_or_default());
        let merges = match vocabulary.rule() {
            MergeRule::Merges(merges) => merges.as_slice(),
            MergeRule::Ranks => &[],
        };
        PyList::new(py, merges.iter().map(|merge| (token(merge.left), token(merge.right))))
    }

    fn special_tokens<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let tokens = PyDict::new(py);
        for (token, id) in self.inner.special_tokens() {
            tokens.set_item(token, id)?;
        }
        Ok(tokens)
    }

    #[getter]
    fn vocab_size(&self) -> usize {
        self.inner.vocabulary().size()
    }

    #[getter]
    fn pattern(&self) -> &str {
        self.inner.scheme().name()
    }

    #[getter]
    fn regex(&self) -> &str {
        self.inner.scheme().regex()
    }

    #[getter]
    fn has_own_scanner(&self) -> bool {
        self.inner.scheme().is_by_hand()
    }

    #[getter]
    fn normalizer(&self) -> Option<&'static str> {
        self.inner.normalizer().map(Normalizer::name)
    }

    #[getter]
    fn remarks(&self) -> Vec<String> {
        self.remarks.clone()
    }

    #[getter]
    fn fingerprint(&self) -> &str {
        self.fingerprint.get_or_init(|| canonical::fingerprint(&self.inner.parts()))
    }
}

impl Tokenizer {
    fn ids(&self, py: Python<'_>, text: &Bound<'_, PyString>, special: &str) -> PyResult<Vec<u32>> {
        let special = handling(special)?;
        let text = borrow(text)?;
        let progress = Progress::default();
        let encode = || self.inner.encode_watched(&text, special, &progress);
        beside(py, text.len(), &progress, encode)
    }

    /// The bytes of ids in an array or any iterable; int32 and int64 arrays are borrowed.
    fn bytes_of(&self, py: Python<'_>, ids: &Bound<'_, PyAny>) -> PyResult<Vec<u8>> {
        if let Ok(array) = ids.extract::<PyReadonlyArray1<'_, i32>>()
            && let Ok(ids) = array.as_slice()
        {
            return self.bytes_of_slice(py, ids);
        }
        if let Ok(array) = ids.extract::<PyReadonlyArray1<'_, i64>>()
            && let Ok(ids) = array.as_slice()
        {
            return self.bytes_of_slice(py, ids);
        }
        let listed = ids.try_iter()?.map(|id| to_i64(&id?)).collect::<PyResult<Vec<i64>>>()?;
        self.bytes_of_slice(py, &listed)
    }

    fn bytes_of_slice(
        &self,
        py: Python<'_>,
        ids: &[impl Copy + Into<i64> + Sync],
    ) -> PyResult<Vec<u8>> {
        let (vocabulary, progress) = (self.inner.vocabulary(), Progress::default());
        let decode = || decode::decode_watched(vocabulary, ids, &progress);
        beside(py, ids.len(), &progress, decode)
    }
}

/// `work` on `size` bytes or ids: at once, with the interpreter lock released, or beside the
/// interpreter, so that nobody waits for a long call and Ctrl-C ends it.
fn beside<T: Send>(
    py: Python<'_>,
    size: usize,
    progress: &Progress,
    work: impl FnOnce() -> Result<T> + Send,
) -> PyResult<T> {
    Ok(match size {
        ..SHORT => work()?,
        SHORT..LONG => py.detach(work)?,
        _ => job::run(py, progress, None, work)??,
    })
}

/// An id; a number beyond an i64 is as unknown as its nearest neighbour there.
fn to_i64(id: &Bound<'_, PyAny>) -> PyResult<i64> {
    id.extract().or_else(|error: PyErr| {
        if !error.is_instance_of::<PyOverflowError>(id.py()) {
            return Err(error);
        }
        Ok(if id.lt(0)? { i64::MIN } else { i64::MAX })
    })
}

/// Ids as they leave: the vocabulary proved that each fits an int32.
#[expect(clippy::cast_possible_wrap, reason = "Vocabulary holds no id above i32::MAX")]
fn as_int32(ids: Vec<u32>) -> Vec<i32> {
    ids.into_iter().map(|id| id as i32).collect()
}

/// The text of a `str`; one with a lone surrogate has no UTF-8 and is refused with its index.
pub(super) fn borrow(text: &Bound<'_, PyString>) -> PyResult<PyBackedStr> {
    PyBackedStr::try_from(text.clone()).map_err(|error| {
        let index = error.value(text.py()).getattr("start").and_then(|start| start.extract());
        match index {
            Ok(index) => Error::LoneSurrogate { index }.into(),
            Err(_) => error,
        }
    })
}

pub(super) fn handling(special: &str) -> Result<SpecialHandling> {
    match special {
        "encode" => Ok(SpecialHandling::Encode),
        "none" => Ok(SpecialHandling::AsText),
        "error" => Ok(SpecialHandling::Refuse),
        other => Err(Error::Usage(format!(
            "special={other:?}; it must be \"encode\", \"none\" or \"error\""
        ))),
    }
}

/// Ids of an iterable of texts, one at a time, on the calling thread.
#[pyclass(module = "lmkit._core")]
pub(super) struct EncodeIterator {
    tokenizer: Arc<encode::Tokenizer>,
    home: Arc<Mutex<Option<StreamEncoder>>>,
    /// `None` only while it is being dropped.
    stream: Option<StreamEncoder>,
    texts: Py<PyIterator>,
    text: Option<PyBackedStr>,
    /// How much of `text` the stream has taken.
    at: usize,
    /// How many of the stream's ready ids have been given out.
    next: usize,
    ended: bool,
}

#[pymethods]
impl EncodeIterator {
    fn __iter__(this: PyRef<'_, Self>) -> PyRef<'_, Self> {
        this
    }

    /// After an error there is nothing more.
    fn __next__(&mut self, py: Python<'_>) -> PyResult<Option<u32>> {
        let id = self.advance(py);
        if let (Err(_), Some(stream)) = (&id, &mut self.stream) {
            stream.clear_ready();
            self.ended = true;
        }
        id
    }
}

impl EncodeIterator {
    fn advance(&mut self, py: Python<'_>) -> PyResult<Option<u32>> {
        let Some(stream) = &mut self.stream else { return Ok(None) };
        loop {
            if let Some(&id) = stream.ready().get(self.next) {
                self.next += 1;
                return Ok(Some(id));
            }
            self.next = 0;
            stream.clear_ready();
            if self.ended {
                return Ok(None);
            }
            if let Some(text) = &self.text {
                let mut end = text.len().min(self.at + STEP);
                while !text.is_char_boundary(end) {
                    end -= 1;
                }
                stream.push(&self.tokenizer, &text[self.at..end])?;
                self.at = end;
                if end == text.len() {
                    self.text = None;
                }
            } else if let Some(text) = self.texts.bind(py).clone().next() {
                self.text = Some(borrow(text?.cast::<PyString>()?)?);
                self.at = 0;
            } else {
                self.ended = true;
                stream.finish(&self.tokenizer)?;
            }
        }
    }
}

impl Drop for EncodeIterator {
    /// Gives the buffers back for the next iterator.
    fn drop(&mut self) {
        let stream = self.stream.take();
        *self.home.lock().unwrap_or_else(PoisonError::into_inner) = stream;
    }
}

/// Text of ids that come one by one.
#[pyclass(module = "lmkit._core")]
pub(super) struct StreamDecoder {
    tokenizer: Arc<encode::Tokenizer>,
    decoder: decode::StreamDecoder,
}

#[pymethods]
impl StreamDecoder {
    /// The text that is certain once this id has come.
    fn push(&mut self, token_id: i64) -> PyResult<String> {
        let bytes = decode::decode_bytes(self.tokenizer.vocabulary(), &[token_id])?;
        Ok(self.decoder.push(&bytes))
    }

    /// What was held back, when no more ids come.
    fn finish(&mut self) -> String {
        self.decoder.finish()
    }
}
