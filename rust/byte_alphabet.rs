//! Bytes as printable characters: the alphabet of GPT-2's vocabulary files.
//!
//! The 188 bytes that are printable in Latin-1 stand for themselves; the other 68 are moved, in
//! order, to U+0100 and up, so that a space is `Ġ` and a newline `Ċ`.

use std::sync::LazyLock;

/// Whether `byte` stands for itself.
const fn is_kept(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF)
}

/// The 256 bytes in GPT-2's order: those that stand for themselves first, each group by value.
pub fn gpt2_order() -> impl Iterator<Item = u8> {
    let kept = (0..=255).filter(|&byte| is_kept(byte));
    kept.chain((0..=255).filter(|&byte| !is_kept(byte)))
}

static CHARACTERS: LazyLock<[char; 256]> = LazyLock::new(|| {
    let mut characters = ['\0'; 256];
    let mut moved = '\u{100}'..;
    for byte in 0..=255_u8 {
        characters[usize::from(byte)] =
            if is_kept(byte) { char::from(byte) } else { moved.next().unwrap_or_default() };
    }
    characters
});

static BYTES: LazyLock<[Option<u8>; 0x144]> = LazyLock::new(|| {
    let mut bytes = [None; 0x144];
    for (byte, &character) in (0..=255_u8).zip(CHARACTERS.iter()) {
        bytes[character as usize] = Some(byte);
    }
    bytes
});

/// The character that stands for `byte`.
pub fn character(byte: u8) -> char {
    CHARACTERS[usize::from(byte)]
}

/// `bytes` in the alphabet.
pub fn spell(bytes: &[u8]) -> String {
    bytes.iter().map(|&byte| character(byte)).collect()
}

/// The bytes that `text` spells, or its first character that is not in the alphabet.
pub fn unspell(text: &str) -> Result<Vec<u8>, char> {
    let byte = |c: char| BYTES.get(c as usize).copied().flatten().ok_or(c);
    text.chars().map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_a_character_of_its_own() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(unspell(&spell(&all)), Ok(all));
        assert_eq!(spell(b" a\n"), "ĠaĊ");
        assert_eq!(unspell("a b"), Err(' '));
    }

    #[test]
    fn the_order_starts_with_what_is_printable() {
        let order: Vec<u8> = gpt2_order().collect();
        assert_eq!((order[0], order[93], order[94], order[188]), (b'!', b'~', 0xA1, 0));
        assert_eq!(order.len(), 256);
    }
}
