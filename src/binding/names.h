/* The strings that the module keeps interned; see state.h. */
#ifndef TAUT_BINDING_NAMES_H
#define TAUT_BINDING_NAMES_H

/* X(name): an interned string `st->str_<name>`. Add names here, alphabetically. */
#define TAUT_NAMES(X)                                                                              \
    X(_asyncio_future_blocking)                                                                    \
    X(_profiled)                                                                                   \
    X(_sslobj)                                                                                     \
    X(_stop_serving)                                                                               \
    X(abort)                                                                                       \
    X(accept)                                                                                      \
    X(add_done_callback)                                                                           \
    X(buffer_updated)                                                                              \
    X(call_exception_handler)                                                                      \
    X(call_soon)                                                                                   \
    X(cancel)                                                                                      \
    X(cipher)                                                                                      \
    X(close)                                                                                       \
    X(compression)                                                                                 \
    X(connect)                                                                                     \
    X(connection_lost)                                                                             \
    X(connection_made)                                                                             \
    X(context)                                                                                     \
    X(datagram_received)                                                                           \
    X(data_received)                                                                               \
    X(do_handshake)                                                                                \
    X(done)                                                                                        \
    X(eof_received)                                                                                \
    X(error_received)                                                                              \
    X(exception)                                                                                   \
    X(fileno)                                                                                      \
    X(future)                                                                                      \
    X(get_buffer)                                                                                  \
    X(getpeercert)                                                                                 \
    X(getpeername)                                                                                 \
    X(getsockname)                                                                                 \
    X(handle)                                                                                      \
    X(loop)                                                                                        \
    X(message)                                                                                     \
    X(msg)                                                                                         \
    X(name)                                                                                        \
    X(pause_writing)                                                                               \
    X(peername)                                                                                    \
    X(pending)                                                                                     \
    X(pipe_connection_lost)                                                                        \
    X(pipe_data_received)                                                                          \
    X(process_exited)                                                                              \
    X(protocol)                                                                                    \
    X(read)                                                                                        \
    X(recv)                                                                                        \
    X(recv_into)                                                                                   \
    X(recvfrom)                                                                                    \
    X(recvfrom_into)                                                                               \
    X(resume_writing)                                                                              \
    X(send)                                                                                        \
    X(sendto)                                                                                      \
    X(server_hostname)                                                                             \
    X(server_side)                                                                                 \
    X(set_exception)                                                                               \
    X(set_name)                                                                                    \
    X(set_result)                                                                                  \
    X(setblocking)                                                                                 \
    X(source_traceback)                                                                            \
    X(throw)                                                                                       \
    X(transport)                                                                                   \
    X(unwrap)                                                                                      \
    X(wrap_bio)                                                                                    \
    X(write)

#endif
