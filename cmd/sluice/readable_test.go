// SPDX-License-Identifier: Apache-2.0

//go:build !nopage

package main

import (
	"context"
	"encoding/json"
	"regexp"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/google/go-cmp/cmp"
)

// evaluate returns what an expression is in the browser.
func evaluate[T any](t *testing.T, ctx context.Context, expression string) T {
	t.Helper()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression))
	if err != nil {
		t.Fatalf("%s: %v", expression, err)
	}
	return v
}

// shownOf is the text of a cell in every row of a table.
func shownOf(t *testing.T, ctx context.Context, table, cell string) []string {
	t.Helper()
	return evaluate[[]string](t, ctx, `[...document.querySelectorAll("#`+table+` tbody tr > [data-name='`+cell+`']")].map((c) => c.textContent)`)
}

// The certificates of the showcase are listed by what is left of them.
func showsCertificates(t *testing.T, ctx context.Context) {
	t.Helper()
	if diff := cmp.Diff([]string{"default/old", "default/certificate", "default/soon", "default/due", "default/fresh"}, shownOf(t, ctx, "certificates", "Certificate")); diff != "" {
		t.Errorf("certificates (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"0", "0", "0", "0", "1"}, shownOf(t, ctx, "certificates", "Days left")); diff != "" {
		t.Errorf("their days left (-want +got):\n%s", diff)
	}
	states := shownOf(t, ctx, "certificates", "State")
	want := []string{"expired: replace it", `ends in \d+[ms]: renew it now`, `ends in [23]h: renew it now`, "renewal is due", "fine"}
	if len(states) != len(want) {
		t.Fatalf("states %q", states)
	}
	for i, w := range want {
		if !regexp.MustCompile("^" + w + "$").MatchString(states[i]) {
			t.Errorf("certificate %d is %q, want %q", i, states[i], w)
		}
	}
}

// What is wrong is told with what mends it.
func showsCures(t *testing.T, ctx context.Context) {
	t.Helper()
	for _, cure := range []string{
		"Secret team-b/gone does not exist; create it, or correct the name in certificateRef",
		`Gateway default/test has no listener "nowhere"; it has "tls"`,
	} {
		text, err := json.Marshal(cure)
		if err != nil {
			t.Fatal(err)
		}
		if !evaluate[bool](t, ctx, `[...document.querySelectorAll("#problems li")].some((l) => l.checkVisibility() && l.innerText.includes(`+string(text)+`))`) {
			t.Errorf("the page does not say: %s", cure)
		}
	}
}

// The bytes of the picture are shown by their path, where some are spliced with
// the share of those, and above it is the share that went past TCP.
func showsShares(t *testing.T, ctx context.Context, spliced bool) {
	t.Helper()
	want := map[string]string{
		"the share of plain TCP":                `[...document.querySelectorAll(".client .shares span")].some((s) => /^\d+% kernel$/.test(s.textContent))`,
		"that nothing goes past TCP":            `figure === "off"`,
		"that what is decrypted is relayed":     `listener.includes("100% relay")`,
		"no spliced bytes where there are none": `!document.querySelector(".path .shares").textContent.includes("spliced")`,
	}
	if spliced {
		want = map[string]string{
			"the share of plain TCP":         want["the share of plain TCP"],
			"the share that went past TCP":   `/^[1-9]\d*%$/.test(figure)`,
			"the spliced share of all":       `/(^|[^\d])[1-9]\d*% spliced/.test(document.querySelector(".client .shares").textContent)`,
			"the spliced share of TLS":       `/[1-9]\d*% spliced/.test(listener)`,
			"a bar with the part of spliced": `document.querySelector(".client .bar rect.spliced").getBoundingClientRect().width > 1`,
		}
	}
	for what, expression := range want {
		eventually(t, what, func() bool {
			return evaluate[bool](t, ctx, `(() => {
				const figure = [...document.querySelectorAll(".figures > div")].find((f) => f.textContent.includes("bytes past TCP")).querySelector("dd").innerText.trim();
				const listener = [...document.querySelectorAll(".path > ul > li")].find((l) => l.textContent.includes("default/test/tls")).querySelector(".shares")?.textContent ?? "";
				return `+expression+`;
			})()`)
		})
	}
}

// faint lists the texts whose contrast with what is behind them is below the 4.5
// of the WCAG, cutOff what is wider than its place.
const (
	faint = `(() => {
		const parts = (color) => {
			const [r, g, b, a = 1] = color.match(/[\d.]+/g).map(Number);
			return {rgb: [r, g, b], a};
		};
		const luminance = ({rgb}) => rgb.map((c) => c / 255).map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
			.reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
		const behind = (e) => {
			for (; e; e = e.parentElement) {
				const color = parts(getComputedStyle(e).backgroundColor);
				if (color.a === 1) return color;
			}
		};
		const texts = [...document.querySelectorAll("header *, main *")].filter((e) => e.checkVisibility() && !e.closest("svg") &&
			(e.matches("input") || [...e.childNodes].some((n) => n.nodeType === Node.TEXT_NODE && n.data.trim())));
		if (texts.length < 100) return ["only " + texts.length + " texts"];
		return texts.flatMap((e) => {
			const of = e.matches("input") ? ["", "::placeholder"] : e.dataset.name ? ["", "::before"] : [""];
			return of.map((pseudo) => {
				const [low, high] = [luminance(parts(getComputedStyle(e, pseudo).color)), luminance(behind(e))].sort((a, b) => a - b);
				return [(high + 0.05) / (low + 0.05), e.tagName + pseudo + " " + e.className + " " + e.textContent.slice(0, 50)];
			});
		}).filter(([ratio]) => !(ratio >= 4.5)).map(([ratio, what]) => ratio.toFixed(2) + ": " + what);
	})()`
	cutOff = `[...document.querySelectorAll("header, header *, main, main *")]
		.filter((e) => e.checkVisibility() && !e.closest("svg") && !e.matches("input") &&
			(e.scrollWidth > e.clientWidth && e.clientWidth > 0 || e.getBoundingClientRect().right > innerWidth))
		.map((e) => e.scrollWidth + " in " + e.clientWidth + ": " + e.tagName + " " + e.className + " " + e.textContent.slice(0, 50))`
)

// The page can be read: its texts stand out, and none is cut off.
func readable(t *testing.T, ctx context.Context) {
	t.Helper()
	for _, text := range evaluate[[]string](t, ctx, faint) {
		t.Errorf("too little contrast, %s", text)
	}
	for _, text := range evaluate[[]string](t, ctx, cutOff) {
		t.Errorf("cut off, %s", text)
	}
}
