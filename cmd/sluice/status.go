// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/sluice-gateway/sluice/agent"
)

// statusView is the status as the admin socket tells it.
type statusView struct {
	agent.Status
	Resources resourceStatus `json:"resources"`
}

func status(e *env, flags *flag.FlagSet, args []string) error {
	admin := flags.String("admin", defaultAdmin(), "`path` of the admin socket")
	output := flags.String("o", "text", "output `format`: text, json or yaml")
	if err := parse(flags, args); err != nil {
		return err
	}
	if err := oneOf("-o", *output, "text", "json", "yaml"); err != nil {
		return err
	}
	raw, err := ask(*admin, "status")
	if err != nil {
		return err
	}
	var view statusView
	if err := json.Unmarshal(raw, &view); err != nil {
		return fmt.Errorf("read status: %w", err)
	}
	if *output == "text" {
		s := screen{e.stdout, time.Now(), terminalWidth(e.stdout)}
		s.print(&view)
	} else if err := printRaw(e.stdout, raw, *output); err != nil {
		return err
	}
	if len(view.Resources.Problems) > 0 {
		return errWrong
	}
	return nil
}

// ask gets what the agent at the admin socket says about something, or what it
// answers to a question.
func ask(admin, what string, question ...any) ([]byte, error) {
	if admin == "" {
		return nil, usageError("-admin needs a path")
	}
	resp, err := func() (*http.Response, error) {
		if len(question) == 0 {
			return agent.AdminClient(admin).Get("http://agent/" + what)
		}
		body, err := json.Marshal(question[0])
		if err != nil {
			return nil, err
		}
		return agent.AdminClient(admin).Post("http://agent/"+what, "application/json", bytes.NewReader(body))
	}()
	if e, ok := errors.AsType[*url.Error](err); ok {
		err = e.Err // the address in it is ours
	}
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return nil, fmt.Errorf("no gateway answers at %s; start sluice run as this user, or give the path that its -admin has", admin)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("admin socket %s: permission denied; ask as the user that runs the gateway", admin)
	case err != nil:
		return nil, fmt.Errorf("admin socket %s: %w", admin, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(cmp.Or(strings.TrimSpace(string(body)), resp.Status))
	}
	if err != nil {
		return nil, fmt.Errorf("admin socket %s: %w", admin, err)
	}
	return body, nil
}

func printRaw(w io.Writer, raw []byte, format string) error {
	if format == "yaml" {
		out, err := yaml.JSONToYAML(raw)
		if err != nil {
			return err
		}
		_, err = w.Write(out)
		return err
	}
	var out bytes.Buffer
	if err := json.Indent(&out, bytes.TrimSpace(raw), "", "  "); err != nil {
		return err
	}
	_, err := fmt.Fprintln(w, out.String())
	return err
}

// oneOf checks the value of a flag.
func oneOf(flag, value string, values ...string) error {
	for _, v := range values {
		if v == value {
			return nil
		}
	}
	return usageError(fmt.Sprintf("%s %q is not one of %q", flag, value, values))
}
