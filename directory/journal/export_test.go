package journal

// SetLength makes a journal say that n bytes of it were acknowledged.
func SetLength(b []byte, n int) {
	is, err := parseStart(b)
	if err != nil {
		panic(err)
	}
	copy(b[oldSize:], is.head.length(int64(n)))
}

// HeadSize is where the frames begin.
const HeadSize = headSize

// Old is the journal as version 1 wrote it.
func Old(b []byte) []byte {
	is, err := parseStart(b)
	if err != nil {
		panic(err)
	}
	old := is.head.bytes(0)[:oldSize]
	old[len(magic)] = 1
	sum := checksum(old[:oldSize-4])
	for i := range 4 {
		old[oldSize-4+i] = byte(sum >> (8 * i))
	}
	return append(old, b[headSize:]...)
}
