FROM python:3.13-slim
WORKDIR /app
COPY requirements.txt constraints.txt ./
# xgboost takes 700 MB, nearly all of it for GPUs; xgboost-cpu is the same module in 20. Neither
# pytest nor scikit-learn serves: xgboost uses scikit-learn only where it is there.
RUN sed -i 's/^xgboost==/xgboost-cpu==/; /^pytest==/d; /^scikit-learn==/d' requirements.txt \
    && pip install --no-cache-dir -r requirements.txt
COPY --chmod=u=rwX,go=rX model model
COPY --chmod=u=rwX,go=rX static static
COPY --chmod=644 gunicorn.conf.py model.py run.py worker.py ./
USER 65534
EXPOSE 3000
HEALTHCHECK CMD ["python", "-c", "import http.client, os; \
    client = http.client.HTTPConnection('127.0.0.1', int(os.environ.get('PORT', '3000')), timeout=5); \
    client.request('GET', '/'); assert client.getresponse().status == 200"]
CMD ["gunicorn", "run:app"]
