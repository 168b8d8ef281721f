/* The thread that copies pyfuse3's replies to the device: see the thread model in mux.h. */
#ifndef RBDFS_REPLIER_H
#define RBDFS_REPLIER_H

void *replier_main(void *mux);

#endif
