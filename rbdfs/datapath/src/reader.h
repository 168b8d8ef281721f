/* The thread that reads the device: see the thread model in mux.h. */
#ifndef RBDFS_READER_H
#define RBDFS_READER_H

void *reader_main(void *mux);

#endif
