// SPDX-License-Identifier: Apache-2.0

package workshop

import (
	"errors"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// step is a numbered section of a page.
type step struct {
	number int
	title  string
	blocks []block
}

// block is commands, and the lines that they show, each with … for anything.
type block struct{ commands, shows string }

var (
	heading = regexp.MustCompile(`^#+ (\d+)\. (.*)`)
	fence   = regexp.MustCompile("^( *)```(\\w*) *$")
)

// steps reads a page in Markdown: its sections with a number, and the fenced
// blocks in them. A block is what the commands before it show when it says that
// it is text, or begins like what curl says.
func steps(page string) (all []step) {
	var lines []string
	var open, indent, language = false, "", ""
	for line := range strings.Lines(page) {
		line = strings.TrimRight(line, "\r\n")
		m := fence.FindStringSubmatch(line)
		switch {
		case m != nil && !open:
			open, indent, language, lines = true, m[1], m[2], nil
		case m != nil && len(all) > 0:
			open = false
			s := &all[len(all)-1]
			text := strings.Join(lines, "\n") + "\n"
			if language != "text" && !strings.HasPrefix(text, "*") {
				s.blocks = append(s.blocks, block{commands: text})
			} else if n := len(s.blocks); n > 0 {
				s.blocks[n-1].shows = text
			}
		case m != nil:
			open = false
		case open:
			lines = append(lines, strings.TrimPrefix(line, indent))
		default:
			if h := heading.FindStringSubmatch(line); h != nil {
				n, _ := strconv.Atoi(h[1])
				all = append(all, step{number: n, title: h[2]})
			}
		}
	}
	return all
}

// lacks returns the first of some lines that is not in an output, below the one
// before. In a line … stands for anything, and a space for any number of them.
func lacks(out, lines string) string {
	said := strings.Split(out, "\n")
	for want := range strings.Lines(lines) {
		pattern := regexp.QuoteMeta(strings.Join(strings.Fields(want), " "))
		pattern = strings.NewReplacer(" … ", ".*", "… ", ".*", " …", ".*", "…", ".*").Replace(pattern)
		expression := regexp.MustCompile(strings.ReplaceAll(pattern, " ", ` +`))
		i := slices.IndexFunc(said, expression.MatchString)
		if i < 0 {
			return want
		}
		said = said[i+1:]
	}
	return ""
}

// original is the text that the workshop is after, where there is a copy of it
// beside the checkout.
const original = "../../../shared/seed/tls-termination-for-tcp.md"

func readOriginal(t *testing.T) []step {
	t.Helper()
	text, err := os.ReadFile(original)
	if errors.Is(err, fs.ErrNotExist) {
		t.Skipf("there is no %s: nothing was taken out of the original, only our own page is tested", original)
	} else if err != nil {
		t.Fatal(err)
	}
	all := steps(regexp.MustCompile(`gatewayClassName: \S+`).ReplaceAllString(string(text), "gatewayClassName: sluice"))
	if len(all) != 13 || all[11].number != 12 {
		t.Fatalf("%d sections with numbers, want 12 steps and the clean-up", len(all))
	}
	return all
}

func readPage(t *testing.T) []step {
	t.Helper()
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	return steps(string(text))
}

// What the tests in the cluster take out of the page, and of the original.
func TestEveryStepHasCommands(t *testing.T) {
	t.Run("page", func(t *testing.T) {
		all := readPage(t)
		for i, s := range all {
			if s.number != i+1 {
				t.Errorf("step %d has number %d", i+1, s.number)
			}
			if len(s.blocks) == 0 {
				t.Errorf("step %d (%s) has no commands", s.number, s.title)
			}
			for _, b := range s.blocks {
				for _, file := range regexp.MustCompile(`-f(?:ile)? (\S+\.yaml)`).FindAllStringSubmatch(b.commands, -1) {
					if _, err := os.Stat(file[1]); err != nil {
						t.Errorf("step %d: %v", s.number, err)
					}
				}
			}
		}
		if len(all) != 14 {
			t.Errorf("%d steps, want the 12 of the original, what the TCPRoute does, and the clean-up", len(all))
		}
	})
	t.Run("original", func(t *testing.T) {
		for _, s := range readOriginal(t) {
			if len(s.blocks) != 1 || s.blocks[0].commands == "" {
				t.Errorf("step %d (%s): %d blocks of commands, want one", s.number, s.title, len(s.blocks))
			}
			if shows := len(s.blocks) > 0 && s.blocks[0].shows != ""; shows != (s.number == 6 || s.number == 12) {
				t.Errorf("step %d (%s): it shows an output: %v", s.number, s.title, shows)
			}
		}
	})
}

func TestStepsReadsMarkdown(t *testing.T) {
	const page = "# Page\n```\nno step\n```\n## 1. One\ntext\n\n  ```sh\n  a <<EOF\n    b\n  EOF\n  ```\n  ```text\n  c\n  ```\n" +
		"#### 2. Two\n```\nd\n\ne\n```\n```\n* f\n```\n```sh\ng\n```\n"
	want := []step{
		{1, "One", []block{{"a <<EOF\n  b\nEOF\n", "c\n"}}},
		{2, "Two", []block{{"d\n\ne\n", "* f\n"}, {"g\n", ""}}},
	}
	got := steps(page)
	if len(got) != len(want) {
		t.Fatalf("%+v", got)
	}
	for i := range want {
		if got[i].number != want[i].number || got[i].title != want[i].title || len(got[i].blocks) != len(want[i].blocks) {
			t.Fatalf("%+v, want %+v", got[i], want[i])
		}
		for j, b := range want[i].blocks {
			if got[i].blocks[j] != b {
				t.Errorf("%q, want %q", got[i].blocks[j], b)
			}
		}
	}
}

func TestLacksComparesWhatIsShown(t *testing.T) {
	const out = "progress 12% * ALPN: server accepted h2\n\"pod\":  \"app-1\"\nA   B  9  C\n"
	for lines, want := range map[string]string{
		"":                             "",
		"* ALPN: server accepted h2\n": "",
		"ALPN … accepted … h2\n\"pod\": \"app-…": "",
		"A … C\n":                        "",
		"A B C\n":                        "A B C\n",
		"\"pod\": \"app-…\nALPN: server": "ALPN: server",
		"\"pod\": \"app-2\"":             "\"pod\": \"app-2\"",
	} {
		if got := lacks(out, lines); got != want {
			t.Errorf("%q: lacks %q, want %q", lines, got, want)
		}
	}
}
