// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"image/color"
	"os"
	"path/filepath"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// Sizes of a picture as wide as a README's column.
const (
	width  = vg.Length(620)
	step   = vg.Length(11) // from bar to bar, the unit of the vertical axis
	thick  = vg.Length(8)
	around = vg.Length(72) // title and axis
	margin = vg.Length(6)
	// longest is the ratio at which bars end; the number beside them goes on.
	longest = 3
)

// theme is the colors of a page.
type theme struct{ paper, ink, faint color.Color }

var (
	light = theme{rgb(0xffffff), rgb(0x1f2328), rgb(0xd1d9e0)}
	dark  = theme{rgb(0x0d1117), rgb(0xe6edf3), rgb(0x3d444d)}
)

// colors are the same in every picture, and readable on both pages.
var colors = map[string]color.Color{
	"spliced": rgb(0xe8590c),
	"relay":   rgb(0xf59f00),
	"haproxy": rgb(0x228be6),
	"nginx":   rgb(0x37b24d),
	"envoy":   rgb(0xbe4bdb),
	"stunnel": rgb(0x15aabf),
	"hitch":   rgb(0x7950f2),
	"naive":   rgb(0x868e96),
}

func rgb(hex uint32) color.Color {
	return color.RGBA{uint8(hex >> 16), uint8(hex >> 8), uint8(hex), 0xff}
}

// save draws the groups from top to bottom; the name's end chooses the format.
func (t theme) save(groups []group, title, path string) error {
	p := t.plot(title)
	at := 0.0 // in steps, downwards
	var names plot.ConstantTicks
	for _, g := range groups {
		names = append(names, plot.Tick{Value: -at - float64(len(g.bars)-1)/2, Label: g.name})
		for _, b := range g.bars {
			if err := t.add(p, b, -at); err != nil {
				return err
			}
			at++
		}
		at++ // between scenarios
	}
	// Room for a font that is wider than ours.
	p.Y.Tick.Marker, p.Y.Tick.Length, p.Y.Tick.Color = names, 12, t.paper
	p.Y.Min, p.Y.Max = 1-at, 1
	height := around + vg.Length(at)*step
	format := strings.TrimPrefix(filepath.Ext(path), ".")
	canvas, err := draw.NewFormattedCanvas(width, height, format)
	if err != nil {
		return err
	}
	page := draw.New(canvas)
	page.SetColor(t.paper)
	page.Fill(page.Path())
	p.Draw(draw.Crop(page, margin, -margin, margin, -margin))
	var picture bytes.Buffer
	if _, err := canvas.WriteTo(&picture); err != nil {
		return err
	}
	out := picture.Bytes()
	if format == "svg" { // whoever looks at it may not have the font
		out = bytes.ReplaceAll(out, []byte("font-family:Liberation Sans;"), []byte("font-family:Liberation Sans,Arial,Helvetica,sans-serif;"))
	}
	return os.WriteFile(path, out, 0o644)
}

// plot is one without bars: a title, an axis of ratios and a line at 1.
func (t theme) plot(title string) *plot.Plot {
	plot.DefaultFont = font.Font{Typeface: "Liberation", Variant: "Sans"}
	plotter.DefaultFont = plot.DefaultFont
	p := plot.New()
	p.BackgroundColor = t.paper
	p.Title.Text, p.Title.TextStyle.Color, p.Title.Padding = title, t.ink, 8
	p.Title.TextStyle.Font.Size = 10
	p.X.Min, p.X.Max = 0, longest+0.6
	for _, a := range []*plot.Axis{&p.X, &p.Y} {
		a.Color, a.Tick.Color, a.Tick.Label.Color = t.faint, t.faint, t.ink
		a.Tick.Label.Font.Size = 9
		a.Padding = 0
	}
	var ticks plot.ConstantTicks
	for v := 0.0; v <= longest; v += 0.5 {
		ticks = append(ticks, plot.Tick{Value: v, Label: fmt.Sprint(v)})
	}
	p.X.Tick.Marker = ticks
	grid := plotter.NewGrid()
	grid.Vertical.Color, grid.Vertical.Dashes = t.faint, []vg.Length{1, 2}
	grid.Horizontal.Color = nil
	p.Add(grid, line{t.ink})
	return p
}

// line is the one at the ratio 1, over the whole height.
type line struct{ color color.Color }

func (l line) Plot(c draw.Canvas, p *plot.Plot) {
	x, _ := p.Transforms(&c)
	c.StrokeLine2(draw.LineStyle{Color: l.color, Width: 0.7}, x(1), c.Min.Y, x(1), c.Max.Y)
}

// add draws a bar with its interval and its name and number.
func (t theme) add(p *plot.Plot, b bar, at float64) error {
	bars, err := plotter.NewBarChart(plotter.Values{min(b.ratio, longest)}, thick)
	if err != nil {
		return err
	}
	bars.Horizontal, bars.XMin = true, at
	bars.Color, bars.LineStyle.Width = colors[b.peer], 0
	p.Add(bars)
	if b.high > 0 {
		p.Add(whisker{b, at, t.ink})
	}
	// Not across the line at 1.
	end := min(max(b.ratio, b.high, 1), longest)
	labels, err := plotter.NewLabels(plotter.XYLabels{
		XYs:    plotter.XYs{{X: end, Y: at}},
		Labels: []string{fmt.Sprintf("%s %.2f", b.peer, b.ratio)},
	})
	if err != nil {
		return err
	}
	labels.Offset = vg.Point{X: 4}
	style := &labels.TextStyle[0]
	style.Color, style.YAlign, style.Font.Size = t.ink, text.YCenter, 8
	p.Add(labels)
	return nil
}

// whisker is the interval of a bar.
type whisker struct {
	bar
	at    float64
	color color.Color
}

func (w whisker) Plot(c draw.Canvas, p *plot.Plot) {
	x, y := p.Transforms(&c)
	style := draw.LineStyle{Color: w.color, Width: 0.8}
	from, to, mid := x(min(w.low, longest)), x(min(w.high, longest)), y(w.at)
	c.StrokeLine2(style, from, mid, to, mid)
	for _, end := range []vg.Length{from, to} {
		c.StrokeLine2(style, end, mid-thick/4, end, mid+thick/4)
	}
}
