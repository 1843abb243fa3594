//! Bytes as printable characters: the alphabet of GPT-2's vocabulary files.
//!
//! The 188 bytes that are printable in Latin-1 stand for themselves; the other 68 are moved, in
//! order, to U+0100 and up, so that a space is `Ġ` and a newline `Ċ`.

/// Whether `byte` stands for itself.
const fn is_kept(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF)
}

/// The 256 bytes in GPT-2's order: those that stand for themselves first, each group by value.
pub fn gpt2_order() -> impl Iterator<Item = u8> {
    let kept = (0..=255).filter(|&byte| is_kept(byte));
    kept.chain((0..=255).filter(|&byte| !is_kept(byte)))
}

static CHARACTERS: [char; 256] = {
    let mut characters = ['\0'; 256];
    let (mut byte, mut moved) = (0_u8, 0x100);
    loop {
        let point = if is_kept(byte) {
            byte as u32
        } else {
            moved += 1;
            moved - 1
        };
        characters[byte as usize] = char::from_u32(point).expect("below the surrogates");
        if byte == u8::MAX {
            break characters;
        }
        byte += 1;
    }
};

static BYTES: [Option<u8>; 0x144] = {
    let mut bytes = [None; 0x144];
    let mut byte = 0_u8;
    loop {
        bytes[CHARACTERS[byte as usize] as usize] = Some(byte);
        if byte == u8::MAX {
            break bytes;
        }
        byte += 1;
    }
};
/// The character that stands for `byte`.
pub fn character(byte: u8) -> char {
    CHARACTERS[usize::from(byte)]
}

/// `bytes` in the alphabet.
pub fn spell(bytes: &[u8]) -> String {
    let mut text = String::new();
    spell_into(bytes, &mut text);
    text
}

/// Appends `bytes` in the alphabet.
pub fn spell_into(bytes: &[u8], text: &mut String) {
    // Of two bytes each, at most.
    text.reserve(2 * bytes.len());
    text.extend(bytes.iter().map(|&byte| character(byte)));
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
