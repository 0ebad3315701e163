// The smallest server: it is here to be looked at, not to be used.
package main

import (
	"log"
	"net/http"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/h2c"
	"gopkg.in/yaml.v3"
)

func main() {
	greeting := map[string]string{}
	if err := yaml.Unmarshal([]byte("text: hello"), &greeting); err != nil {
		log.Fatal(err)
	}
	handler := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(greeting["text"]))
	})
	log.Fatal(http.ListenAndServe("127.0.0.1:8080", h2c.NewHandler(handler, &http2.Server{})))
}
