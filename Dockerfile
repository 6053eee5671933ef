FROM python:3.14-slim
WORKDIR /app
COPY requirements.txt constraints.txt ./
# xgboost takes 700 MB, nearly all of it for GPUs; xgboost-cpu is the same module in 20. Neither
# pytest nor scikit-learn serves: xgboost uses scikit-learn only where it is there.
RUN sed -i 's/^xgboost==/xgboost-cpu==/; /^pytest==/d; /^scikit-learn==/d' requirements.txt \
    && pip install --no-cache-dir -r requirements.txt
COPY model model
COPY static static
COPY gunicorn.conf.py gunicorn_worker.py model.py request_body.py run.py settings.py ./
# The files have the modes of the checkout, which may let nobody else read them. The check imports
# the service: that writes the bytecode of what it uses, also of Python's library, which comes
# without. When the service runs, it cannot write, and would compile all that at each start.
RUN chmod -R a+rX . && gunicorn --check-config run:app
USER 65534
EXPOSE 3000
HEALTHCHECK CMD ["python", "-c", "import http.client, os; \
    client = http.client.HTTPConnection('127.0.0.1', int(os.environ.get('PORT', '3000')), timeout=5); \
    client.request('GET', '/'); assert client.getresponse().status == 200"]
CMD ["gunicorn", "run:app"]
