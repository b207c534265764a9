// SPDX-License-Identifier: Apache-2.0

// Command echo is the demonstration's backend: it answers each HTTP request
// with a JSON description of that request and of itself.
package main

import (
	"encoding/json"
	"flag"
	"log"
	"net/http"
	"os"
)

type reply struct {
	Path      string      `json:"path"`
	Host      string      `json:"host"`
	Method    string      `json:"method"`
	Proto     string      `json:"proto"`
	Headers   http.Header `json:"headers"`
	Namespace string      `json:"namespace"`
	Pod       string      `json:"pod"`
}

func main() {
	address := flag.String("listen", ":3000", "`address` to listen on")
	flag.Parse()
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		e := json.NewEncoder(w)
		e.SetIndent("", " ")
		_ = e.Encode(reply{r.URL.Path, r.Host, r.Method, r.Proto, r.Header, os.Getenv("NAMESPACE"), os.Getenv("POD_NAME")})
	})
	log.Fatal(http.ListenAndServe(*address, handler))
}
