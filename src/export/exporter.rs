//! Writes a document piece by piece.

use std::fmt;

use super::document::{Document, Finding, Image, Package};
use super::format::Format;
use super::out::Out;

/// What an exporter needs next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// The packages of the image with this number, by package URL.
    Packages(usize),
    /// The findings of the image with this number.
    FindingsOf(usize),
    /// The findings of all images by vulnerability; those that are equal but for the image one after the other.
    Findings,
}

/// Rows that were read; a part of what the exporter needs.
#[derive(Debug)]
pub enum Rows {
    /// Packages.
    Packages(Vec<Package>),
    /// Findings, each with the number of its image.
    Findings(Vec<(usize, Finding)>),
}

/// A pass over the data. A format that needs the same data in two places of a document reads it twice instead of keeping it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pass {
    /// Each image with its packages.
    Packages,
    /// Each image with its packages, and then with its findings.
    Images,
    /// The findings of all images.
    Findings,
}

/// A format. The methods are called in the order of the document.
pub(super) trait Writer: Send + Sync + fmt::Debug {
    /// Returns the passes of the format.
    fn passes(&self) -> &'static [Pass];
    /// Begins the document.
    fn begin(&mut self, out: &mut Out, document: &Document, images: &[Image]);
    /// Begins a pass, by index.
    fn begin_pass(&mut self, _out: &mut Out, _pass: usize) {}
    /// Begins an image.
    fn image(&mut self, _out: &mut Out, _image: &Image) {}
    /// Writes a package of the image.
    fn package(&mut self, _out: &mut Out, _image: &Image, _package: &Package) {}
    /// Ends the packages of the image, where its findings follow.
    fn packages_end(&mut self, _out: &mut Out) {}
    /// Writes a finding.
    fn finding(&mut self, _out: &mut Out, _image: &Image, _finding: &Finding) {}
    /// Ends the image.
    fn image_end(&mut self, _out: &mut Out, _image: &Image) {}
    /// Ends a pass.
    fn end_pass(&mut self, _out: &mut Out, _pass: usize) {}
    /// Ends the document.
    fn end(&mut self, out: &mut Out);
}

/// The place in the document.
#[derive(Clone, Copy, Debug)]
enum Stage {
    Begin,
    Pass(usize),
    Image(usize, usize),
    Packages(usize, usize),
    Findings(usize, usize),
    AllFindings(usize),
    End,
}

/// Writes a document piece by piece; it holds the images and at most one package besides its caller's rows.
///
/// Call [`next`](Self::next) until it returns `None`, and after each call hand over all rows of what it returned. After any call
/// [`take`](Self::take) returns the text so far.
#[derive(Debug)]
pub struct Exporter {
    writer: Box<dyn Writer>,
    document: Document,
    images: Vec<Image>,
    out: Out,
    stage: Stage,
    /// The last package: the next one may be the same, listed by another path.
    held: Option<Package>,
}

impl Exporter {
    /// Creates a document of images. Their [`number`](Image::number) is set to their index.
    pub fn new(format: Format, document: Document, mut images: Vec<Image>) -> Self {
        for (number, image) in images.iter_mut().enumerate() {
            image.number = number;
        }
        Self { writer: format.writer(), document, images, out: Out::default(), stage: Stage::Begin, held: None }
    }

    /// Returns the text that was written since the last call.
    pub fn take(&mut self) -> String {
        self.out.take()
    }

    /// Returns the size of the text that [`take`](Self::take) would return, in bytes.
    pub fn size(&self) -> usize {
        self.out.size()
    }

    /// Ends what was read before and returns what has to be read next; `None` at the end of the document.
    #[expect(clippy::should_implement_trait, reason = "not an iterator: rows are handed over between two calls")]
    pub fn next(&mut self) -> Option<Read> {
        let Self { writer, document, images, out, .. } = self;
        loop {
            match self.stage {
                Stage::Begin => {
                    writer.begin(out, document, images);
                    self.stage = Stage::Pass(0);
                }
                Stage::Pass(pass) => {
                    let Some(kind) = writer.passes().get(pass) else {
                        writer.end(out);
                        self.stage = Stage::End;
                        return None;
                    };
                    writer.begin_pass(out, pass);
                    if *kind == Pass::Findings {
                        self.stage = Stage::AllFindings(pass);
                        return Some(Read::Findings);
                    }
                    self.stage = Stage::Image(pass, 0);
                }
                Stage::Image(pass, number) => match images.get(number) {
                    None => {
                        writer.end_pass(out, pass);
                        self.stage = Stage::Pass(pass + 1);
                    }
                    Some(image) => {
                        writer.image(out, image);
                        self.stage = Stage::Packages(pass, number);
                        return Some(Read::Packages(number));
                    }
                },
                Stage::Packages(pass, number) => {
                    let image = &images[number];
                    if let Some(last) = self.held.take() {
                        write_package(writer.as_mut(), out, image, last);
                    }
                    if writer.passes().get(pass) == Some(&Pass::Images) {
                        writer.packages_end(out);
                        self.stage = Stage::Findings(pass, number);
                        return Some(Read::FindingsOf(number));
                    }
                    writer.image_end(out, image);
                    self.stage = Stage::Image(pass, number + 1);
                }
                Stage::Findings(pass, number) => {
                    writer.image_end(out, &images[number]);
                    self.stage = Stage::Image(pass, number + 1);
                }
                Stage::AllFindings(pass) => {
                    writer.end_pass(out, pass);
                    self.stage = Stage::Pass(pass + 1);
                }
                Stage::End => return None,
            }
        }
    }

    /// Writes rows of what [`next`](Self::next) returned. A package that follows the same package adds its paths to it.
    pub fn write(&mut self, rows: Rows) {
        let Self { writer, images, out, held, .. } = self;
        match (rows, self.stage) {
            (Rows::Packages(packages), Stage::Packages(_, number)) => {
                for package in packages {
                    match held {
                        Some(last) if last.key() == package.key() => last.evidence.extend(package.evidence),
                        _ => {
                            if let Some(last) = held.replace(package) {
                                write_package(writer.as_mut(), out, &images[number], last);
                            }
                        }
                    }
                }
            }
            (Rows::Findings(findings), Stage::Findings(..) | Stage::AllFindings(_)) => {
                for (number, finding) in findings {
                    if let Some(image) = images.get(number) {
                        writer.finding(out, image, &finding);
                    }
                }
            }
            _ => {}
        }
    }
}

/// Writes a package with each of its paths once.
fn write_package(writer: &mut dyn Writer, out: &mut Out, image: &Image, mut package: Package) {
    package.evidence.sort_unstable();
    package.evidence.dedup();
    writer.package(out, image, &package);
}
