package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"gatehouse/control/authority"
	"gatehouse/control/trust"
)

// payload is about as large as the message that carries one relation.
const payload = 160

const service = "bare.Stream"

// bare pushes what it is told to all streams.
type bare struct {
	mu   sync.Mutex
	wake chan struct{}
	sent uint64
}

func (b *bare) next() (uint64, chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.sent, b.wake
}

func (b *bare) watch(_ any, s grpc.ServerStream) error {
	m := &wrapperspb.BytesValue{Value: make([]byte, payload)}
	if err := s.SendMsg(m); err != nil { // so that the client knows that it is there
		return err
	}
	for at := uint64(0); ; {
		sent, wake := b.next()
		for ; at < sent; at++ {
			if err := s.SendMsg(m); err != nil {
				return err
			}
		}
		select {
		case <-wake:
		case <-s.Context().Done():
			return nil
		}
	}
}

func (b *bare) push() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sent++
	close(b.wake)
	b.wake = make(chan struct{})
}

func runBare() error {
	a, err := authority.Open(*dir, []string{"127.0.0.1"}, time.Now)
	if err != nil {
		return err
	}
	certificate, err := a.Server()
	if err != nil {
		return err
	}
	b := &bare{wake: make(chan struct{})}
	s := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{*certificate}})))
	s.RegisterService(&grpc.ServiceDesc{ServiceName: service, HandlerType: (*any)(nil),
		Streams: []grpc.StreamDesc{{StreamName: "Watch", ServerStreams: true, Handler: b.watch}},
		Methods: []grpc.MethodDesc{{MethodName: "Push", Handler: func(_ any, _ context.Context, read func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			var m wrapperspb.BytesValue
			if err := read(&m); err != nil {
				return nil, err
			}
			b.push()
			return &wrapperspb.BytesValue{}, nil
		}}}}, nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(l.Addr(), a.Pin())
	return s.Serve(l)
}

func measureBare() ([]time.Duration, error) {
	p, err := start("bare", *dir, "")
	if err != nil {
		return nil, err
	}
	defer p.kill()
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	defer running.Wait()
	defer stop()
	in := &arrivals{have: map[uint64]int{}, want: *edges, done: make(chan uint64, 10_000)}
	dial := func() (*grpc.ClientConn, error) {
		secure, err := trust.Control("", p.words[1], "127.0.0.1", time.Now)
		if err != nil {
			return nil, err
		}
		return grpc.NewClient(p.words[0], grpc.WithTransportCredentials(credentials.NewTLS(secure)))
	}
	for range *edges {
		conn, err := dial()
		if err != nil {
			return nil, err
		}
		running.Go(func() {
			defer conn.Close()
			s, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, "/"+service+"/Watch")
			if err != nil || s.SendMsg(&wrapperspb.BytesValue{}) != nil || s.CloseSend() != nil {
				return
			}
			for n := uint64(1); ; n++ {
				var m wrapperspb.BytesValue
				if s.RecvMsg(&m) != nil {
					return
				}
				in.add(n)
			}
		})
	}
	in.wait(1)
	fmt.Println("bare gRPC with all streams:", p.memory())
	conn, err := dial()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	var took []time.Duration
	for i := range *writes {
		at := time.Now()
		if err := conn.Invoke(ctx, "/"+service+"/Push", &wrapperspb.BytesValue{}, &wrapperspb.BytesValue{}); err != nil {
			return nil, err
		}
		in.wait(uint64(i) + 2)
		took = append(took, time.Since(at))
		time.Sleep(*gap)
	}
	return took, nil
}
