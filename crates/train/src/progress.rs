//! `progress.png`: losses, pseudo-Dice and learning rate over epochs.

use artifact::model::Epoch;
use stage::picture::{BLACK, Canvas, Colour, PALETTE, WHITE};

const WIDTH: usize = 900;
const PANEL: usize = 260;
const LEFT: i32 = 64;
const TOP: i32 = 24;
const GRID: Colour = [225, 225, 225];

struct Curve {
    name: String,
    colour: Colour,
    values: Vec<f64>,
}

/// Draws the history; `targets` names what is scored.
pub fn draw(epochs: &[Epoch], targets: &[&str]) -> Canvas {
    let column = |f: fn(&Epoch) -> f64| epochs.iter().map(f).collect::<Vec<f64>>();
    let curve =
        |name: &str, i: usize, values| Curve { name: name.into(), colour: PALETTE[i % 7], values };
    let losses = vec![
        curve("train loss", 1, column(|e| e.train_loss)),
        curve("validation loss", 0, column(|e| e.validation_loss)),
        curve("train average", 6, column(|e| e.train_loss_average)),
        curve("validation average", 4, column(|e| e.validation_loss_average)),
    ];
    let dice = targets.iter().enumerate().map(|(i, target)| {
        let values =
            epochs.iter().map(|e| e.pseudo_dice.get(i).copied().unwrap_or(f64::NAN)).collect();
        curve(target, i, values)
    });
    let rate = vec![curve("log10 learning rate", 2, column(|e| e.learning_rate.log10()))];
    let mut canvas = Canvas::new(WIDTH, 3 * PANEL, WHITE);
    panel(&mut canvas, 0, "loss", &losses, None);
    panel(
        &mut canvas,
        1,
        "pseudo-Dice on validation patches",
        &dice.collect::<Vec<_>>(),
        Some((0.0, 1.0)),
    );
    panel(&mut canvas, 2, "learning rate", &rate, None);
    canvas
}

fn panel(
    canvas: &mut Canvas,
    index: usize,
    title: &str,
    curves: &[Curve],
    range: Option<(f64, f64)>,
) {
    let top = i32::try_from(index * PANEL).unwrap_or(0) + TOP;
    let (width, height) = (WIDTH as i32 - LEFT - 200, PANEL as i32 - TOP - 28);
    let (low, high) = range.unwrap_or_else(|| bounds(curves));
    canvas.text(LEFT, top - 16, title, BLACK);
    for i in 0..=4 {
        let y = top + height * i / 4;
        canvas.line((LEFT, y), (LEFT + width, y), GRID);
        let value = high - (high - low) * f64::from(i) / 4.0;
        canvas.text(4, y - 5, &format!("{value:9.4}"), BLACK);
    }
    let count = curves.iter().map(|c| c.values.len()).max().unwrap_or(0);
    let x =
        |i: usize| LEFT + (width as f64 * i as f64 / count.saturating_sub(1).max(1) as f64) as i32;
    // Within the box, whatever the value.
    let y = |v: f64| top + (f64::from(height) * ((high - v) / (high - low)).clamp(0.0, 1.0)) as i32;
    for (row, curve) in (0i32..).zip(curves) {
        let points: Vec<(i32, i32)> = curve
            .values
            .iter()
            .enumerate()
            .filter(|(_, v)| v.is_finite())
            .map(|(i, &v)| (x(i), y(v)))
            .collect();
        for pair in points.windows(2) {
            canvas.line(pair[0], pair[1], curve.colour);
        }
        for &(px, py) in points.iter().filter(|_| points.len() < 60) {
            canvas.fill(px - 1, py - 1, 3, 3, curve.colour);
        }
        let legend = top + 14 * row;
        canvas.fill(LEFT + width + 12, legend + 2, 10, 6, curve.colour);
        canvas.text(LEFT + width + 28, legend, &curve.name, BLACK);
    }
    canvas.text(LEFT, top + height + 6, "epoch 0", BLACK);
    canvas.text(
        LEFT + width - 60,
        top + height + 6,
        &format!("epoch {}", count.saturating_sub(1)),
        BLACK,
    );
}

fn bounds(curves: &[Curve]) -> (f64, f64) {
    let finite = || curves.iter().flat_map(|c| &c.values).copied().filter(|v| v.is_finite());
    let (low, high) =
        (finite().fold(f64::INFINITY, f64::min), finite().fold(f64::NEG_INFINITY, f64::max));
    match high - low {
        r if r.is_finite() && r > 1e-9 => (low - 0.05 * r, high + 0.05 * r),
        r if r.is_finite() => (low - 0.5, high + 0.5),
        _ => (0.0, 1.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epoch(epoch: usize, dice: f64) -> Epoch {
        Epoch {
            epoch,
            learning_rate: 3e-4,
            train_loss: 1.0 - epoch as f64,
            validation_loss: f64::NAN,
            train_loss_average: 0.5,
            validation_loss_average: f64::NAN,
            pseudo_dice: vec![dice],
        }
    }

    #[test]
    fn a_rising_dice_is_drawn_from_the_lower_left_to_the_upper_right() {
        let canvas = draw(&[epoch(0, 0.0), epoch(1, 1.0)], &["a"]);
        let curve: Vec<(usize, usize)> = (0..canvas.height())
            .flat_map(|y| (0..canvas.width()).map(move |x| (x, y)))
            .filter(|&(x, y)| {
                (PANEL..2 * PANEL).contains(&y) && x < 700 && canvas.get(x, y) == PALETTE[0]
            })
            .collect();
        let (left, right) = (curve.iter().min().unwrap(), curve.iter().max().unwrap());
        assert!(left.1 > right.1 + 150, "from {left:?} to {right:?}");
    }

    #[test]
    fn values_beyond_the_axis_end_at_its_box() {
        let mut far = epoch(0, 1e300);
        (far.train_loss, far.validation_loss) = (-1e308, 1e308);
        let canvas = draw(&[far, epoch(1, -1e300)], &["a"]);
        let coloured = |y: usize| (0..700).any(|x| canvas.get(x, y) == PALETTE[0]);
        let rows: Vec<usize> = (PANEL..2 * PANEL).filter(|&y| coloured(y)).collect();
        let top = PANEL + TOP as usize;
        let (first, last) = (rows[0], rows[rows.len() - 1]);
        assert!(first + 1 >= top && last <= 2 * PANEL - 27, "{first} to {last}");
    }

    #[test]
    fn an_empty_history_is_drawn_too() {
        assert_eq!(draw(&[], &[]).width(), WIDTH);
    }
}
