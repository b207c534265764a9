// SPDX-License-Identifier: Apache-2.0

//go:build nopage

package main

import (
	"errors"
	"net/http"

	"github.com/sluice-gateway/sluice/agent"
)

// The image has no page: nobody points a browser at a socket in a pod, kubectl
// sluice web draws it elsewhere of what sluice web -o json says there. What finds
// methods by name, as html/template does, keeps the linker from leaving any method
// out: 26 MB.

var ownPage func(*agent.Agent) http.Handler

func serveWeb(*env, string, subject) error {
	return errors.New("this program was built without the page; for all nodes of a cluster use kubectl sluice web, for this one -o json")
}
