package gate

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"sync/atomic"
)

// decisionIDs makes ids that are unique and tell nothing about each other: a counter, encrypted. AES permutes blocks, so that one
// process never makes an id twice, and two that meet are as unlikely as two random numbers of 128 bits that do. Asking the
// kernel for randomness costs several times as much.
type decisionIDs struct {
	block   cipher.Block
	counter atomic.Uint64
}

// id is a decision's id on its way: in memory that is on the heap already, as what goes through an interface has to be.
type id struct{ block [aes.BlockSize]byte }

var idText = base32.StdEncoding.WithPadding(base32.NoPadding)

func (d *decisionIDs) init() error {
	var key [16]byte
	_, _ = rand.Read(key[:]) // never fails (package crypto/rand)
	block, err := aes.NewCipher(key[:])
	if err != nil {
		return fmt.Errorf("decision ids: %w", err)
	}
	d.block = block
	return nil
}

// next returns a new id: 26 letters and digits.
func (d *decisionIDs) next(i *id) string {
	i.block = [aes.BlockSize]byte{}
	binary.BigEndian.PutUint64(i.block[:], d.counter.Add(1))
	d.block.Encrypt(i.block[:], i.block[:])
	var text [26]byte
	return string(idText.AppendEncode(text[:0], i.block[:]))
}
