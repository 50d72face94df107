// One GET with net/http's default client; ends with 0 only for a 200.
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
)

func main() {
	answer, err := http.Get(os.Getenv("BASE") + "/thing")
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	text, _ := io.ReadAll(answer.Body)
	fmt.Println(answer.StatusCode, answer.Proto, string(text))
	if answer.StatusCode != 200 {
		os.Exit(1)
	}
}
