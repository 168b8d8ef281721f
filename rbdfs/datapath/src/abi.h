/* The kernel's FUSE interface, with the flags that older headers lack. */
#ifndef RBDFS_ABI_H
#define RBDFS_ABI_H

#include <linux/fuse.h>
#include <stdbool.h>
#include <stdint.h>

#ifndef FUSE_DIRECT_IO_ALLOW_MMAP
#define FUSE_DIRECT_IO_ALLOW_MMAP (1ULL << 36)
#endif
#ifndef FUSE_HAS_RESEND
#define FUSE_HAS_RESEND (1ULL << 39)
#endif
#ifndef FUSE_UNIQUE_RESEND
#define FUSE_UNIQUE_RESEND (1ULL << 63)
#endif

/* O_DIRECT of a WRITE, which libfuse keeps from pyfuse3, in a bit of its fh that no number reaches. */
#define FH_DIRECT (1ULL << 62)

/* An opcode is an enum constant, which the preprocessor cannot ask for: so a name of our own. */
#define OPCODE_COPY_FILE_RANGE_64 53

/* Set in the opcode of what Python gets of a request that is refused: its header alone. */
#define OPCODE_REFUSED 0x80000000u

/* Set in the opcode of the header that tells Python of a request whose caller is not to wait for it
 * any longer. It is no request itself. */
#define OPCODE_ABANDONED 0x40000000u

/* What stands before the data of a WRITE. The kernel refuses a read of the device that leaves no
 * room for this and max_write bytes. */
#define WRITE_HEAD_BYTES (sizeof(struct fuse_in_header) + sizeof(struct fuse_write_in))

/* Whether the kernel waits for a reply to this opcode. */
static inline bool has_reply(uint32_t opcode)
{
    return opcode != FUSE_FORGET && opcode != FUSE_BATCH_FORGET && opcode != FUSE_INTERRUPT &&
           opcode != FUSE_NOTIFY_REPLY;
}

/* Whether the request may fail with an error. What is not let be closed would stay open to the end
 * of the mount: the kernel forgets it all the same. */
static inline bool can_be_refused(uint32_t opcode)
{
    return has_reply(opcode) && opcode != FUSE_RELEASE && opcode != FUSE_RELEASEDIR;
}

#endif
