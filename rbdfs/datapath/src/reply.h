/* Writing to the device, and the thread that copies pyfuse3's replies to it. */
#ifndef RBDFS_REPLY_H
#define RBDFS_REPLY_H

void *replier_main(void *mux);

#endif
