/* Whether the program was started with standard output closed, as by `>&-`. Before `main`, Rust's runtime opens /dev/null in
 * its place, and every write would succeed. To look earlier takes a constructor, which Rust has only in unsafe code. */

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

__attribute__((constructor)) static void note_closed_stdout(void) {
    if (fcntl(STDOUT_FILENO, F_GETFD) == -1 && errno == EBADF) {
        setenv("AGENTMUX_STATE_STDOUT_IS_CLOSED", "1", 1);
    } else {
        unsetenv("AGENTMUX_STATE_STDOUT_IS_CLOSED");
    }
}
