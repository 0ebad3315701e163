//! IDs of advisories.

/// The ID of an advisory that a question may name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdvisoryId {
    /// The ID as publishers spell it: `CVE-2021-44228`, `GHSA-jfh8-c2jp-5v3q`.
    pub id: String,
    /// How much the text looks like an ID.
    pub form: AdvisoryForm,
}

/// How much a text looks like the ID of an advisory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdvisoryForm {
    /// The ID of a CVE record or of a GitHub advisory: never a package.
    Standard,
    /// The form that publishers use (`DSA-5686-1`, `RUSTSEC-2024-0001`), which packages rarely have.
    Publisher,
    /// Any other name. Sources may give their advisories any name.
    Any,
}

const INVALID_GHSA: &str =
    "invalid GitHub advisory ID; expected three groups of four characters, as in GHSA-jfh8-c2jp-5v3q";

impl AdvisoryId {
    /// Returns the ID that `text` may be, or `None` if no advisory has such an ID.
    ///
    /// # Errors
    /// When the text begins like the ID of a CVE record or of a GitHub advisory and does not have its form.
    pub fn parse(text: &str) -> Result<Option<Self>, &'static str> {
        let standard = |id| Ok(Some(Self { id, form: AdvisoryForm::Standard }));
        if let Some(rest) = strip(text, "CVE").filter(|rest| is_rest_of_id(rest)) {
            return match rest.strip_prefix('-').and_then(|rest| rest.split_once('-')) {
                Some((year, number)) if is_number(year, 4..=4) && is_number(number, 1..=19) => {
                    standard(text.to_ascii_uppercase())
                }
                _ => Err("invalid CVE ID; expected CVE-YEAR-NUMBER, as in CVE-2021-44228"),
            };
        }
        if text.eq_ignore_ascii_case("GHSA") {
            return Err(INVALID_GHSA);
        }
        if let Some(rest) = strip(text, "GHSA-") {
            let is_part = |part: &str| part.len() == 4 && part.bytes().all(|byte| byte.is_ascii_alphanumeric());
            return if rest.split('-').count() == 3 && rest.split('-').all(is_part) {
                standard(format!("GHSA-{}", rest.to_ascii_lowercase()))
            } else {
                Err(INVALID_GHSA)
            };
        }
        let is_id = |character: char| character.is_ascii_alphanumeric() || matches!(character, '-' | ':' | '.' | '_');
        if !text.chars().all(is_id) {
            return Ok(None);
        }
        let form = if is_of_publisher(text) { AdvisoryForm::Publisher } else { AdvisoryForm::Any };
        Ok(Some(Self { id: text.to_owned(), form }))
    }
}

/// Returns whether what follows `CVE` makes it the beginning of an ID, well-formed or not: nothing, or a digit behind at most one separator.
/// Packages such as `cve-bin-tool` have letters there.
fn is_rest_of_id(rest: &str) -> bool {
    let number = rest.strip_prefix(['-', '_', ' ', ':', '.', '/']).unwrap_or(rest);
    number.is_empty() || number.starts_with(|first: char| first.is_ascii_digit())
}

/// Returns `text` without `prefix`, which is compared without regard to case.
fn strip<'t>(text: &'t str, prefix: &str) -> Option<&'t str> {
    text.get(..prefix.len()).filter(|start| start.eq_ignore_ascii_case(prefix))?;
    text.get(prefix.len()..)
}

fn is_number(text: &str, length: std::ops::RangeInclusive<usize>) -> bool {
    length.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Returns whether the text begins with an abbreviation in capital letters and a hyphen, and contains a digit behind it.
fn is_of_publisher(text: &str) -> bool {
    let Some((publisher, rest)) = text.split_once('-') else { return false };
    let is_abbreviation = publisher.len() >= 2
        && publisher.starts_with(|first: char| first.is_ascii_uppercase())
        && publisher.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit());
    is_abbreviation && rest.bytes().any(|byte| byte.is_ascii_digit())
}
