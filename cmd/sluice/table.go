// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"unicode"

	"golang.org/x/sys/unix"
)

// terminalWidth is how many columns a line may have, 0 where w is no terminal.
func terminalWidth(w any) int {
	f, ok := w.(*os.File)
	if !ok {
		return 0
	}
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0
	}
	return int(size.Col)
}

// oneLine takes what a terminal would act upon out of text: names in files and in
// certificates, and what clients and nodes send, are whatever somebody likes.
func oneLine(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n', r == '\t':
			return ' '
		case !unicode.IsGraphic(r):
			return '?'
		}
		return r
	}, text)
}

// plain is oneLine for text of several lines, which stay; all but the first get an
// indent.
func plain(text, indent string) string {
	lines := strings.Split(text, "\n")
	for i := range lines {
		lines[i] = oneLine(lines[i])
	}
	return strings.Join(lines, "\n"+indent)
}

// line prints text, folded between words where the terminal is narrower. What
// follows the first line is indented.
func (s *screen) line(indent, format string, args ...any) {
	text := indent + plain(fmt.Sprintf(format, args...), indent+"  ")
	for i := 0; s.width > 0 && len(text) > s.width; i++ {
		cut := strings.LastIndexByte(text[:s.width+1], ' ')
		if cut <= len(indent)+2 {
			break // a word that is wider than the terminal
		}
		fmt.Fprintln(s.w, text[:cut])
		text = indent + "  " + text[cut+1:]
	}
	fmt.Fprintln(s.w, text)
}

func (s *screen) list(title string, lines []string) {
	if len(lines) == 0 {
		return
	}
	fmt.Fprintf(s.w, "\n%s\n", title)
	for _, l := range lines {
		s.line("", "- %s", l)
	}
}

// table is aligned rows under a row of titles.
type table struct {
	s       *screen
	rows    bytes.Buffer
	aligned *tabwriter.Writer
	// headings stand before the rows of these numbers, not aligned.
	headings map[int]string
	n        int
}

func (s *screen) table(titles ...string) *table {
	t := &table{s: s, headings: map[int]string{}}
	t.aligned = tabwriter.NewWriter(&t.rows, 0, 0, 2, ' ', 0)
	t.row(titles...)
	return t
}

func (t *table) row(cells ...string) {
	printRow(t.aligned, cells)
	t.n++
}

// printRow prints cells for a tabwriter.
func printRow(w io.Writer, cells []string) {
	clean := make([]string, len(cells))
	for i, c := range cells {
		clean[i] = oneLine(c)
	}
	fmt.Fprintln(w, strings.Join(clean, "\t"))
}

func (t *table) heading(text string) { t.headings[t.n] += oneLine(text) + "\n" }

// print prints the table, if there is more than titles.
func (t *table) print() {
	if t.n == 1 && t.headings[1] == "" {
		return
	}
	_ = t.aligned.Flush() // to memory
	fmt.Fprintln(t.s.w)
	for i := range t.n {
		line, _ := t.rows.ReadString('\n')
		fmt.Fprint(t.s.w, t.headings[i], line)
	}
	fmt.Fprint(t.s.w, t.headings[t.n])
}
