//! Text from files and command lines, as it is safe to show.

use std::fmt::{self, Display, Formatter, Write};

/// Shows text in one line that changes nothing but that line: what controls a terminal, breaks lines, reorders or hides
/// text is shown as an escape, `\n` or `\u{202e}`. Letters of any script, combining marks and symbols stay as they are.
#[derive(Debug, Clone, Copy)]
pub struct Shown<T>(pub T);

impl<T: Display> Display for Shown<T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(Escaping(f), "{}", self.0)
    }
}

/// Escapes what is written through it.
struct Escaping<'a, 'b>(&'a mut Formatter<'b>);

impl Write for Escaping<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.chars().try_for_each(|c| match is_safe(c) {
            true => self.0.write_char(c),
            false => write!(self.0, "{}", c.escape_default()),
        })
    }
}

/// Whether a character only adds its own shape to the line.
fn is_safe(c: char) -> bool {
    if matches!(c, ' '..='~') {
        return true;
    }
    // Marks, letters and vowel signs that show nothing (Default_Ignorable_Code_Point), which count as printable below;
    // variation selectors 1 to 16 stay: they choose between shapes of the symbol before.
    let hidden = matches!(c, '\u{34f}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{3164}' | '\u{ffa0}' | '\u{e0000}'..='\u{e0fff}');
    // The standard library knows which characters are printable: not those of the categories control, format, separator,
    // private and unassigned. It escapes a combining mark only at the beginning of a text.
    let mut text = [0; 8];
    text[0] = b'a';
    let length = 1 + c.encode_utf8(&mut text[1..]).len();
    let printable =
        str::from_utf8(&text[..length]).is_ok_and(|t| t.escape_debug().nth(1) == Some(c));
    printable && !hidden
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        Shown(text).to_string()
    }

    #[test]
    fn what_controls_a_terminal_or_forges_a_line_is_escaped() {
        for (text, expected) in [
            ("a\nnnu-train: done", "a\\nnnu-train: done"),
            ("a\r\tb", "a\\r\\tb"),
            ("\x1b]0;title\x07\x1b[2J", "\\u{1b}]0;title\\u{7}\\u{1b}[2J"),
            ("\u{7f}\u{9b}31m\u{85}", "\\u{7f}\\u{9b}31m\\u{85}"),
            ("\u{2028}\u{2029}", "\\u{2028}\\u{2029}"),
            ("\u{202e}gii.\u{202c}", "\\u{202e}gii.\\u{202c}"),
            (
                "\u{2066}\u{2069}\u{200e}\u{200f}\u{61c}",
                "\\u{2066}\\u{2069}\\u{200e}\\u{200f}\\u{61c}",
            ),
            (
                "a\u{200b}\u{200d}\u{2060}\u{feff}\u{ad}b",
                "a\\u{200b}\\u{200d}\\u{2060}\\u{feff}\\u{ad}b",
            ),
            ("\u{e0041}\u{3164}\u{34f}\u{fffa}", "\\u{e0041}\\u{3164}\\u{34f}\\u{fffa}"),
            ("\0", "\\u{0}"),
        ] {
            assert_eq!(shown(text), expected);
        }
    }

    #[test]
    fn names_of_every_script_stay_readable() {
        // Composed and decomposed, right to left, with marks, with an emoji's variation.
        for name in [
            "Fälle \"2\" \\ 'x' 100 %",
            "Fa\u{308}lle",
            "症例_001 ／ケース",
            "случай-7",
            "حالة ٣",
            "מקרה",
            "กรณี",
            "रोगी",
            "❤\u{fe0f} → ½ µm",
        ] {
            assert_eq!(shown(name), name);
        }
    }

    #[test]
    fn pieces_are_escaped_as_the_whole() {
        assert_eq!(Shown(format_args!("{}: {}", "a\n", 'b')).to_string(), "a\\n: b");
    }
}
