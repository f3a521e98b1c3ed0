// Verify a ledger with the transparency-log libraries of the Go project, and nothing of Doorward's.
// Usage: verify DATA_DIR
package main

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

func main() {
	dataDir := os.Args[1]
	line, err := os.ReadFile(filepath.Join(dataDir, "ledger-state", "ledger.vkey"))
	check(err)
	key := strings.SplitN(strings.TrimSpace(string(line)), "+", 3)[2]
	folders, err := filepath.Glob(filepath.Join(dataDir, "ledger", "*", "checkpoint"))
	check(err)
	for _, path := range folders {
		verify(filepath.Dir(path), key)
	}
}

// verifierKey is the note key of a log: every log signs under its own name with the one key of the installation.
func verifierKey(name, key string) string {
	raw, err := base64.StdEncoding.DecodeString(key)
	check(err)
	id := sha256.Sum256([]byte(name + "\n" + string(raw)))
	return fmt.Sprintf("%s+%08x+%s", name, binary.BigEndian.Uint32(id[:4]), key)
}

func verify(folder, key string) {
	signed, err := os.ReadFile(filepath.Join(folder, "checkpoint"))
	check(err)
	verifier, err := note.NewVerifier(verifierKey(strings.SplitN(string(signed), "\n", 2)[0], key))
	check(err)
	opened, err := note.Open(signed, note.VerifierList(verifier))
	check(err)
	lines := strings.Split(opened.Text, "\n")
	var size int64
	_, err = fmt.Sscan(lines[1], &size)
	check(err)
	root, err := tlog.TreeHash(size, hashesOf(folder, size))
	check(err)
	if base64.StdEncoding.EncodeToString(root[:]) != lines[2] {
		check(fmt.Errorf("%s: the root does not match", lines[0]))
	}
	fmt.Printf("%s: %d entries, signature and root hold\n", lines[0], size)
}

// hashesOf hashes every entry anew, from the entry bundles alone.
func hashesOf(folder string, size int64) tlog.HashReader {
	var hashes []tlog.Hash
	reader := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		found := make([]tlog.Hash, len(indexes))
		for i, at := range indexes {
			found[i] = hashes[at]
		}
		return found, nil
	})
	for first := int64(0); first < size; first += 256 {
		number := first / 256
		name := fmt.Sprintf("%03d", number%1000)
		for rest := number / 1000; rest > 0; rest /= 1000 {
			name = fmt.Sprintf("x%03d/%s", rest%1000, name)
		}
		if size-first < 256 {
			name += fmt.Sprintf(".p/%d", size-first)
		}
		bundle, err := os.ReadFile(filepath.Join(folder, "tile", "entries", name))
		check(err)
		for at := first; len(bundle) > 0; at++ {
			length := 2 + int(binary.BigEndian.Uint16(bundle))
			stored, err := tlog.StoredHashes(at, bundle[2:length], reader)
			check(err)
			hashes = append(hashes, stored...)
			bundle = bundle[length:]
		}
	}
	return reader
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
