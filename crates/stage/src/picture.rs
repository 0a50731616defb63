//! Pictures for people: an RGB canvas with text, lines and grey images, saved as PNG.

use artifact::Commit;
use embedded_graphics::mono_font::{MonoTextStyle, ascii::FONT_6X10};
use embedded_graphics::pixelcolor::Rgb888;
use embedded_graphics::prelude::*;
use embedded_graphics::primitives::{Line, PrimitiveStyle, Rectangle};
use embedded_graphics::text::{Baseline, Text};
use ndarray::ArrayView2;
use std::convert::Infallible;
use std::path::Path;

/// Red, green, blue.
pub type Colour = [u8; 3];

/// White.
pub const WHITE: Colour = [255, 255, 255];
/// Black.
pub const BLACK: Colour = [0, 0, 0];
/// Colours of classes and curves, told apart by most colour-blind people too (Okabe and Ito 2008).
pub const PALETTE: [Colour; 7] = [
    [230, 159, 0],
    [86, 180, 233],
    [0, 158, 115],
    [240, 228, 66],
    [213, 94, 0],
    [204, 121, 167],
    [0, 114, 178],
];

/// An RGB image in the making; x to the right, y down, in pixels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Canvas {
    width: usize,
    height: usize,
    pixels: Vec<u8>,
}

impl Canvas {
    /// A canvas of one colour.
    pub fn new(width: usize, height: usize, background: Colour) -> Self {
        let pixels = background.repeat(width * height);
        Self { width, height, pixels }
    }

    /// Width in pixels.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Height in pixels.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Sets a pixel; outside of the canvas nothing happens.
    pub fn set(&mut self, x: usize, y: usize, colour: Colour) {
        if x < self.width && y < self.height {
            let at = 3 * (y * self.width + x);
            self.pixels[at..at + 3].copy_from_slice(&colour);
        }
    }

    /// The colour of a pixel; black outside.
    pub fn get(&self, x: usize, y: usize) -> Colour {
        if x >= self.width || y >= self.height {
            return BLACK;
        }
        let at = 3 * (y * self.width + x);
        [self.pixels[at], self.pixels[at + 1], self.pixels[at + 2]]
    }

    /// Text in a 6×10 font; (x, y) is its top left corner.
    pub fn text(&mut self, x: i32, y: i32, text: &str, colour: Colour) {
        let style = MonoTextStyle::new(&FONT_6X10, rgb(colour));
        let Ok(_) = Text::with_baseline(text, Point::new(x, y), style, Baseline::Top).draw(self);
    }

    /// A line of one pixel's width.
    pub fn line(&mut self, from: (i32, i32), to: (i32, i32), colour: Colour) {
        let style = PrimitiveStyle::with_stroke(rgb(colour), 1);
        let Ok(()) = Line::new(from.into(), to.into()).into_styled(style).draw(self);
    }

    /// A filled rectangle.
    pub fn fill(&mut self, x: i32, y: i32, width: u32, height: u32, colour: Colour) {
        let style = PrimitiveStyle::with_fill(rgb(colour));
        let area = Rectangle::new(Point::new(x, y), Size::new(width, height));
        let Ok(()) = area.into_styled(style).draw(self);
    }

    /// A slice `[row, column]` in grey, each voxel `zoom` × `zoom` pixels; `low` is black, `high` white.
    pub fn grey(
        &mut self,
        x: usize,
        y: usize,
        slice: ArrayView2<'_, f32>,
        low: f32,
        high: f32,
        zoom: usize,
    ) {
        let range = if high > low { high - low } else { 1.0 };
        for ((row, column), &value) in slice.indexed_iter() {
            // `as u8` saturates, and makes 0 of NaN.
            let grey = (255.0 * (value - low) / range).round() as u8;
            for dy in 0..zoom {
                for dx in 0..zoom {
                    self.set(x + column * zoom + dx, y + row * zoom + dy, [grey; 3]);
                }
            }
        }
    }

    /// Outlines of each class > 0 of a slice `[row, column]` in the palette's colours; goes on top of [`Self::grey`].
    pub fn outlines(&mut self, x: usize, y: usize, classes: ArrayView2<'_, i16>, zoom: usize) {
        let (rows, columns) = classes.dim();
        for ((row, column), &class) in classes.indexed_iter() {
            let Ok(index @ 1..) = usize::try_from(class) else { continue };
            let colour = PALETTE[(index - 1) % PALETTE.len()];
            let differs =
                |r: usize, c: usize| r >= rows || c >= columns || classes[[r, c]] != class;
            let (px, py) = (x + column * zoom, y + row * zoom);
            for i in 0..zoom {
                if row == 0 || differs(row - 1, column) {
                    self.set(px + i, py, colour);
                }
                if differs(row + 1, column) {
                    self.set(px + i, py + zoom - 1, colour);
                }
                if column == 0 || differs(row, column - 1) {
                    self.set(px, py + i, colour);
                }
                if differs(row, column + 1) {
                    self.set(px + zoom - 1, py + i, colour);
                }
            }
        }
    }

    /// The canvas as PNG; the same canvas gives the same bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let side =
            |n: usize| u32::try_from(n).expect("a canvas of at most 4 billion pixels a side");
        let mut encoder = png::Encoder::new(&mut bytes, side(self.width), side(self.height));
        encoder.set_color(png::ColorType::Rgb);
        let mut writer = encoder.write_header().expect("writing to memory");
        writer.write_image_data(&self.pixels).expect("writing to memory");
        drop(writer);
        bytes
    }

    /// Saves the canvas as a PNG file.
    ///
    /// # Errors
    /// If the file can't be written.
    pub fn save(&self, path: &Path) -> artifact::Result<()> {
        Commit::file(path, &self.encode())
    }
}

fn rgb([r, g, b]: Colour) -> Rgb888 {
    Rgb888::new(r, g, b)
}

impl OriginDimensions for Canvas {
    fn size(&self) -> Size {
        let side = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Size::new(side(self.width), side(self.height))
    }
}

impl DrawTarget for Canvas {
    type Color = Rgb888;
    type Error = Infallible;

    fn draw_iter<I: IntoIterator<Item = Pixel<Rgb888>>>(
        &mut self,
        pixels: I,
    ) -> Result<(), Infallible> {
        for Pixel(point, colour) in pixels {
            if let (Ok(x), Ok(y)) = (usize::try_from(point.x), usize::try_from(point.y)) {
                self.set(x, y, [colour.r(), colour.g(), colour.b()]);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn a_slice_is_drawn_with_its_window_and_outlined_by_class() {
        let mut canvas = Canvas::new(6, 4, WHITE);
        canvas.grey(0, 0, array![[0.0f32, 1.0, 2.0], [f32::NAN, -1.0, 1.0]].view(), 0.0, 2.0, 2);
        assert_eq!(canvas.get(0, 0), BLACK);
        assert_eq!(canvas.get(3, 1), [128; 3]);
        assert_eq!(canvas.get(5, 0), WHITE);
        assert_eq!(canvas.get(0, 2), BLACK);
        canvas.outlines(0, 0, array![[0i16, 0, -1], [0, 2, 0]].view(), 2);
        assert_eq!(canvas.get(2, 2), PALETTE[1]);
        assert_eq!(canvas.get(0, 0), BLACK);
    }

    #[test]
    fn a_png_reads_back() {
        let mut canvas = Canvas::new(40, 12, WHITE);
        canvas.text(0, 0, "nnu", BLACK);
        let bytes = canvas.encode();
        let mut reader = png::Decoder::new(std::io::Cursor::new(bytes)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut pixels).unwrap();
        assert_eq!(pixels, canvas.pixels);
        assert!(pixels.contains(&0), "no text was drawn");
    }
}
