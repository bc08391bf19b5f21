//! Texts of limited length.

/// The longest beginning of at most `max` bytes that ends between two characters.
pub(crate) fn cut(text: &str, max: usize) -> &str {
    let end = (0..=max.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn between_characters() {
        for (text, max, expected) in
            [("abc", 5, "abc"), ("abc", 3, "abc"), ("abc", 2, "ab"), ("aä", 2, "a"), ("ä", 0, "")]
        {
            assert_eq!(cut(text, max), expected);
        }
    }
}
