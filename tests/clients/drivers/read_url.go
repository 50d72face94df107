// What Go's standard library reads in a URL: what its client writes for it, and what its server reads in that. A line of JSON for each that comes in.
package main

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path"
	"strconv"
	"strings"
)

type asked struct {
	URL       string `json:"url"`
	Authority string `json:"authority"`
	Target    string `json:"target"`
}

type seen struct {
	Refused string   `json:"refused,omitempty"`
	Host    string   `json:"host"`
	Port    int      `json:"port"`
	Path    string   `json:"path"`
	Cleaned string   `json:"cleaned"`
	Query   string   `json:"query"`
	Keys    []string `json:"keys"`
}

func refused(err error) seen { return seen{Refused: err.Error()} }

// The request that the client sends, as the server reads it.
func client(text string) seen {
	request, err := http.NewRequest("GET", text, nil)
	if err != nil {
		return refused(err)
	}
	if request.URL.Host == "" {
		return refused(fmt.Errorf("no host"))
	}
	var wire bytes.Buffer
	if err := request.Write(&wire); err != nil {
		return refused(err)
	}
	return server(wire.Bytes())
}

func server(wire []byte) seen {
	request, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(wire)))
	if err != nil {
		return refused(err)
	}
	place, err := url.Parse("https://" + request.Host)
	if err != nil {
		return refused(err)
	}
	port := 443
	if place.Port() != "" {
		if port, err = strconv.Atoi(place.Port()); err != nil {
			return refused(err)
		}
		if _, other, err := net.SplitHostPort(request.Host); err != nil || other != place.Port() {
			return refused(fmt.Errorf("net.SplitHostPort: %v", err))
		}
	}
	host := strings.ToLower(strings.TrimSuffix(place.Hostname(), "."))
	if address, err := netip.ParseAddr(host); err == nil {
		host = address.String()
	}
	var keys []string
	// It leaves out what it cannot read, as servers do that ignore the error.
	values, _ := url.ParseQuery(request.URL.RawQuery)
	for name, all := range values {
		if strings.EqualFold(name, "key") {
			keys = append(keys, all...)
		}
	}
	hexed := func(text string) string { return hex.EncodeToString([]byte(text)) }
	return seen{Host: host, Port: port, Path: hexed(request.URL.Path), Cleaned: hexed(path.Clean(request.URL.Path)),
		Query: request.URL.RawQuery, Keys: keys}
}

func main() {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var one asked
		if err := json.Unmarshal(lines.Bytes(), &one); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		answer := map[string]seen{"go": client(one.URL)}
		if one.Target != "" {
			answer["go_sent"] = server([]byte("GET " + one.Target + " HTTP/1.1\r\nHost: " + one.Authority + "\r\n\r\n"))
		}
		text, err := json.Marshal(answer)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println(string(text))
	}
}
